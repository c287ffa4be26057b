"""Slot attention and SLATE against straight-line code, and what training relies on."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paper_lib.fixed_point import Iteration, Neumann, Unrolled
from paper_lib.models import SLATE, VARIANTS, SLATEConfig, SlotAttention, variant
from paper_lib.models.dvae import sample_categorical

# sizes that differ wherever they may, so that none can stand in for another
SMALL = SLATEConfig(
    image_size=16,
    vocab_size=11,
    d_model=16,
    slot_size=12,
    mlp_hidden_size=20,
    num_slots=3,
    num_iterations=3,
    num_dec_blocks=2,
    num_heads=4,
    dropout=0.0,
)
N = 16  # tokens


def slate(seed=0, **changes):
    torch.manual_seed(seed)
    return SLATE(SLATEConfig(**{**vars(SMALL), **changes}))


def perturbed(model):
    """Move every parameter a little: biases and norms start at zero and one, which would hide a
    missing one."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def images(batch=3, size=16, seed=1):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tokens(batch=3, vocab=11, seed=2):
    return torch.randint(vocab, (batch, N), generator=torch.Generator().manual_seed(seed))


def slot_attention(heads=1, solver=None, adjoint=None, seed=0):
    torch.manual_seed(seed)
    solver, adjoint = solver or Iteration(3), adjoint or Unrolled()
    return perturbed(SlotAttention(10, 12, 20, solver, adjoint, num_heads=heads)).double()


def slot_inputs(batch=2, n=7, k=4):
    """Inputs (batch, n, 10) and initial slots (batch, k, 12)."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(batch, n, 10, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(batch, k, 12, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------- straight-line re-implementation


def norm(module, x):
    return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, 1e-5)


def cell_by_loops(m, inputs, slots, heads):
    """Algorithm 1's step, an image, a head and a token at a time. The GRU is torch's own."""
    D = slots.shape[-1]
    d = D // heads
    inputs, queries = norm(m.norm_inputs, inputs), norm(m.norm_slots, slots) @ m.project_q.weight.T
    keys, values = inputs @ m.project_k.weight.T, inputs @ m.project_v.weight.T
    new, masks = [], []
    for b in range(len(slots)):
        head = [slice(h * d, (h + 1) * d) for h in range(heads)]
        # (heads, N, K)
        logits = torch.stack([keys[b][:, s] @ queries[b][:, s].T / math.sqrt(d) for s in head])
        exp = logits.exp()
        attn = exp / exp.sum((0, 2), keepdim=True)  # for each input over heads and slots together
        weights = attn + 1e-8
        weights = weights / weights.sum(1, keepdim=True)
        updates = torch.cat([weights[h].T @ values[b][:, head[h]] for h in range(heads)], 1)
        s = nn.GRUCell.forward(m.gru, updates, slots[b])
        new.append(s + m.mlp(norm(m.norm_mlp, s)))
        masks.append(attn.sum(0))
    return torch.stack(new), torch.stack(masks)


def decoder_logits(model, embedded, slots):
    """Embeddings (B, T, d_model) of the start token and those before each target, slots ->
    (B, T, vocab)."""
    heads, T = model.config.num_heads, embedded.shape[1]

    def attention(m, x, source, mask):
        q, k, v = (
            F.linear(a, p.weight).unflatten(-1, (heads, -1)).movedim(-2, -3)
            for a, p in [(x, m.proj_q), (source, m.proj_k), (source, m.proj_v)]
        )
        scores = (q @ k.mT) / math.sqrt(q.shape[-1])
        if mask:
            scores = scores + torch.full((T, T), -math.inf).triu(1)
        return F.linear((scores.softmax(-1) @ v).movedim(-3, -2).flatten(-2), m.proj_o.weight)

    slots = slots @ model.slot_proj.weight.T
    x = embedded
    for i, block in enumerate(model.tf_dec.blocks):
        normed = norm(block.self_attn_layer_norm, x)
        x = (normed if i == 0 else x) + attention(block.self_attn, normed, normed, True)
        x = x + attention(
            block.encoder_decoder_attn, norm(block.encoder_decoder_attn_layer_norm, x), slots, False
        )
        hidden = F.relu(
            F.linear(norm(block.ffn_layer_norm, x), block.ffn[0].weight, block.ffn[0].bias)
        )
        x = x + F.linear(hidden, block.ffn[2].weight, block.ffn[2].bias)
    return norm(model.tf_dec.layer_norm, x) @ model.out.weight.T


def embed(model, tokens):
    """Start token, then the tokens; each with its position."""
    table, pe = model.dictionary.dictionary.weight, model.positional_encoder.pe
    rows = [table[0].expand(len(tokens), -1)] + [
        table[tokens[:, i] + 1] for i in range(tokens.shape[1])
    ]
    return torch.stack(rows, 1) + pe[:, : len(rows)]


def dvae_pass(layers, x):
    """The layers of the dVAE's encoder or decoder, from their weights."""
    for layer in layers:
        if isinstance(layer, nn.PixelShuffle):
            B, C, H, W = x.shape
            x = (
                x.view(B, C // 4, 2, 2, H, W)
                .permute(0, 1, 4, 2, 5, 3)
                .reshape(B, C // 4, 2 * H, 2 * W)
            )
        elif isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias)
        else:
            side = layer.m.weight.shape[-1]
            x = F.conv2d(
                x, layer.m.weight, None, stride=4 if side == 4 else 1, padding=1 if side == 3 else 0
            )
            x = (x - x.mean((1, 2, 3), keepdim=True)) / (
                x.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-5
            ).sqrt()
            x = (x * layer.weight[:, None, None] + layer.bias[:, None, None]).clamp_min(0)
    return x


def gumbel(shape):
    batch, vocab, *side = shape
    # drawn as it lies in memory: the vocabulary last
    uniform = torch.rand(batch, *side, vocab).movedim(-1, 1)
    return -(-uniform.log()).log()


def draw_by_loops(log_probs, u):
    """(B, vocab, h, w), uniform numbers (B, h * w) -> (B, h * w): the first token up to which the
    probabilities sum to more than u."""
    p = log_probs.detach().double().exp().flatten(2)
    total = p.sum(1)
    tokens = torch.empty_like(u, dtype=torch.int64)
    for b in range(len(p)):
        for i in range(p.shape[2]):
            token = 0
            while not p[b, : token + 1, i].sum() > u[b, i] * total[b, i]:
                token += 1
            tokens[b, i] = token
    return tokens


# ---------------------------------------------------------------- slot attention


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_step_of_slot_attention(heads):
    module, (inputs, slots) = slot_attention(heads), slot_inputs()
    for ours, theirs in zip(
        module.cell(inputs)(slots), cell_by_loops(module, inputs, slots, heads), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(
    "adjoint, applications", [(Unrolled(), 3), (Neumann(), 4)], ids=["Unrolled", "Neumann"]
)
def test_slot_attention_iterates_its_cell(heads, adjoint, applications):
    module, (inputs, slots) = slot_attention(heads, adjoint=adjoint), slot_inputs()
    solution = module(inputs, slots)
    for _ in range(applications):
        slots, masks = cell_by_loops(module, inputs, slots, heads)
    torch.testing.assert_close(solution.value, slots, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(solution.aux, masks, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 4])
def test_masks_sum_to_one_over_slots(heads):
    solution = slot_attention(heads)(*slot_inputs())
    assert solution.aux.shape == (2, 7, 4) and (solution.aux >= 0).all()
    torch.testing.assert_close(solution.aux.sum(-1), torch.ones(2, 7, dtype=torch.float64))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("choice", sorted(VARIANTS))
def test_slots_are_a_set(heads, choice):
    """Permuted initial slots give permuted slots and masks; permuted inputs change no slot."""
    module, (inputs, slots) = slot_attention(heads, *variant(choice, 4)), slot_inputs()
    order = torch.tensor([2, 0, 3, 1])
    one, two = module(inputs, slots), module(inputs, slots[:, order])
    torch.testing.assert_close(one.value[:, order], two.value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(one.aux[:, :, order], two.aux, rtol=1e-6, atol=1e-7)
    flipped = module(inputs.flip(1), slots)
    torch.testing.assert_close(one.value, flipped.value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(one.aux.flip(1), flipped.aux, rtol=1e-6, atol=1e-7)


def test_gru_is_torchs():
    module = slot_attention()
    generator = torch.Generator().manual_seed(4)
    x, h = torch.randn(2, 5, 4, 12, dtype=torch.float64, generator=generator)
    theirs = nn.GRUCell.forward(module.gru, x.flatten(0, 1), h.flatten(0, 1)).view_as(h)
    torch.testing.assert_close(module.gru(x, h), theirs, rtol=1e-12, atol=1e-13)


def test_constructor_refusals():
    with pytest.raises(ValueError, match="num_heads"):
        SlotAttention(10, 12, 20, Iteration(3), Unrolled(), num_heads=5)
    with pytest.raises(TypeError, match="expected an object"):
        SlotAttention(10, 12, 20, Iteration(3), Neumann)


# ---------------------------------------------------------------- variants


@pytest.mark.parametrize("choice", sorted(VARIANTS))
def test_every_variant_trains(choice):
    model = slate(variant=choice, num_iterations=4, dropout=0.1).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(2):
        optimizer.zero_grad(set_to_none=True)
        out = model(images(), tau=0.8)
        (out.cross_entropy + out.mse).backward()
        without = {k for k, p in model.named_parameters() if p.grad is None}
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        # only the unrolled loop tells the initial guess anything
        assert without == (
            set() if choice == "vanilla" else {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"}
        )
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        optimizer.step()
        # a shift of the normalised slots cancels in the softmax over slots of one head: its
        # gradient is nothing but rounding
        still = {k for k, p in model.named_parameters() if torch.equal(p, before[k])} - {
            "slot_attn.slot_attention.norm_slots.bias"
        }
        assert still == without, step
    assert out.slots.shape == (3, 3, 12) and out.attn.shape == (3, N, 3)


# ---------------------------------------------------------------- initialisation


def test_initial_weights():
    """The authors': uniform within the Xavier or Kaiming bound, which enough draws nearly reach,
    orthogonal recurrence, zero biases."""
    model = slate(d_model=48, slot_size=24, mlp_hidden_size=36, vocab_size=300, num_dec_blocks=4)
    seen = set()

    def uniform(key, bound):
        seen.add(key)
        w = model.get_parameter(key).detach()
        largest = w.abs().max() / bound
        assert 0.97 < largest <= 1, f"{key}: {largest:.3f} of the bound"
        assert abs(w.std() / (bound / math.sqrt(3)) - 1) < 0.1, key
        assert abs(w.mean()) < 5 * bound / math.sqrt(3 * w.numel()), key

    def xavier(key, gain=1.0):
        fan_out, fan_in = model.get_parameter(key).shape[:2]
        uniform(key, gain * math.sqrt(6 / (fan_in + fan_out)))  # all of these are 1x1 or linear

    def kaiming(key):
        uniform(key, math.sqrt(6 / model.get_parameter(key)[0].numel()))  # gain sqrt 2, fan in

    for key in ("project_q", "project_k", "project_v", "mlp.2"):
        xavier(f"slot_attn.slot_attention.{key}.weight")
    xavier("slot_attn.mlp.2.weight")
    kaiming("slot_attn.mlp.0.weight")
    kaiming("slot_attn.slot_attention.mlp.0.weight")
    xavier("slot_attn.slot_attention.gru.weight_ih")
    recurrence = model.slot_attn.slot_attention.gru.weight_hh.detach()
    torch.testing.assert_close(recurrence.T @ recurrence, torch.eye(24), rtol=0, atol=1e-5)
    seen.add("slot_attn.slot_attention.gru.weight_hh")
    gain = 12**-0.5  # (3 layers)^-1/2
    for i in range(4):
        for attention in ("self_attn", "encoder_decoder_attn"):
            for p in "qkv":
                xavier(f"tf_dec.blocks.{i}.{attention}.proj_{p}.weight")
            xavier(f"tf_dec.blocks.{i}.{attention}.proj_o.weight", gain)
        kaiming(f"tf_dec.blocks.{i}.ffn.0.weight")
        xavier(f"tf_dec.blocks.{i}.ffn.2.weight", gain)
    xavier("slot_proj.weight")
    xavier("out.weight")
    for name, part in (("encoder", model.dvae.encoder), ("decoder", model.dvae.decoder)):
        for i, layer in enumerate(part):
            if isinstance(layer, nn.Conv2d):
                xavier(f"dvae.{name}.{i}.weight")
            elif not isinstance(layer, nn.PixelShuffle):
                kaiming(f"dvae.{name}.{i}.m.weight")
    embedding = model.dictionary.dictionary.weight.detach()
    assert embedding.shape == (301, 48) and embedding.abs().max() > 2.5
    assert abs(embedding.mean()) < 0.05 and abs(embedding.std() - 1) < 0.05
    pe = model.positional_encoder.pe.detach()
    # a standard normal cut at +-2, as torch's trunc_normal_ with std 1 does, deviates by 0.88
    assert pe.shape == (1, 17, 48) and 1.9 < pe.abs().max() <= 2
    assert abs(pe.std() - 0.88) < 0.05 and abs(pe.mean()) < 0.1
    # Xavier of a (1, 1, D) tensor: fan in and fan out are D
    for key in ("slot_attn.slot_mu", "slot_attn.slot_log_sigma"):
        w = model.get_parameter(key)
        assert w.shape == (1, 1, 24) and w.abs().max() <= math.sqrt(6 / 48) and w.std() > 0.1
    seen |= {
        "dictionary.dictionary.weight",
        "positional_encoder.pe",
        "slot_attn.slot_mu",
        "slot_attn.slot_log_sigma",
    }
    for key, p in model.named_parameters():
        if key in seen:
            continue
        assert p.dim() == 1, f"{key} was not looked at"
        assert (p == (0 if "bias" in key else 1)).all(), key  # biases; the scales of norms


def test_a_seed_gives_the_weights_that_it_always_gave():
    """Committed runs started from these: parameters in the same order, each from the same draws.
    (Rounding may differ between processors.)"""
    parameters = list(slate(seed=0).parameters())
    weights = torch.cat([p.detach().double().flatten() for p in parameters])
    assert len(parameters) == 119 and len(weights) == 167_022
    checksum = (weights * torch.arange(len(weights), dtype=torch.float64).cos()).sum().item()
    assert checksum == pytest.approx(-47.16235997, rel=1e-6)
    assert torch.rand(1).item() == pytest.approx(0.8007170557975769, rel=1e-6)


# ---------------------------------------------------------------- SLATE's forward


@pytest.mark.parametrize("slot_heads, choice, applications", [(1, "vanilla", 3), (2, "IN", 4)])
@pytest.mark.parametrize("hard", [False, True])
def test_training_pass_line_by_line(slot_heads, choice, applications, hard):
    model = perturbed(slate(num_slot_heads=slot_heads, variant=choice)).train()
    image, tau = images(), 0.7
    torch.manual_seed(5)
    out = model(image, tau, hard)

    torch.manual_seed(5)
    logits = dvae_pass(model.dvae.encoder, image)
    log_probs = logits - logits.logsumexp(1, keepdim=True)
    relaxed = ((log_probs + gumbel(log_probs.shape)) / tau).softmax(1)
    targets = draw_by_loops(log_probs, torch.rand(3, N))
    if hard:
        relaxed = F.one_hot(relaxed.argmax(1), 11).movedim(-1, 1).float()
    decoded = torch.cat([dvae_pass(model.dvae.decoder, relaxed[i : i + 1]) for i in range(3)])
    mse = ((decoded - image) ** 2).sum() / 3

    embedded = embed(model, targets)
    s = model.slot_attn
    slots = s.slot_mu + s.slot_log_sigma.exp() * torch.randn(3, 3, 12)
    inputs = s.mlp(norm(s.layer_norm, embedded[:, 1:]))
    for _ in range(applications):
        slots, masks = cell_by_loops(s.slot_attention, inputs, slots, slot_heads)
    log_softmax = decoder_logits(model, embedded[:, :-1], slots).log_softmax(-1)
    cross_entropy = -sum(log_softmax[b, i, targets[b, i]] for b in range(3) for i in range(N)) / 3

    for ours, theirs in [
        (out.mse, mse),
        (out.cross_entropy, cross_entropy),
        (out.slots, slots),
        (out.attn, masks),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # vanilla differentiates all of this: so must autograd through the loops
    if choice == "vanilla" and not hard:
        keys, parameters = zip(*model.named_parameters())
        ours = torch.autograd.grad(out.mse + out.cross_entropy, parameters)
        theirs = torch.autograd.grad(mse + cross_entropy, parameters)
        for key, a, b in zip(keys, ours, theirs, strict=True):
            assert (a - b).norm() <= 1e-3 * b.norm() + 1e-3, key


def test_hard_sample_keeps_the_relaxed_gradient():
    model = slate()
    gradients = []
    for hard in (False, True):
        torch.manual_seed(6)
        seen = []
        handle = model.dvae.decoder.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        model(images(), 0.7, hard)
        handle.remove()
        cotangent = torch.randn(seen[0].shape, generator=torch.Generator().manual_seed(7))
        gradients.append(torch.autograd.grad(seen[0], model.dvae.encoder[-1].weight, cotangent)[0])
    torch.testing.assert_close(*gradients)


def test_no_gradient_between_the_dvae_and_the_rest():
    model = slate(variant="vanilla").train()
    dvae = {k for k, _ in model.named_parameters() if k.startswith("dvae.")}
    for loss, reached in (("cross_entropy", False), ("mse", True)):
        model.zero_grad(set_to_none=True)
        getattr(model(images(), 0.7), loss).backward()
        assert {k for k, p in model.named_parameters() if p.grad is not None} == (
            dvae if reached else {k for k, _ in model.named_parameters()} - dvae
        )


def test_targets_are_drawn_apart_from_the_relaxed_sample():
    """With an indifferent encoder, targets and the relaxed sample's tokens agree one time in
    vocab_size, and both are uniform."""
    model, vocab, relaxed, rows = slate(num_iterations=1), 11, [], []
    nn.init.zeros_(model.dvae.encoder[-1].weight)
    model.dvae.decoder.register_forward_pre_hook(
        lambda _, args: relaxed.append(args[0].argmax(1).flatten(1))
    )
    model.dictionary.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    torch.manual_seed(8)
    with torch.no_grad():
        model(images(200), 0.5)
    assert len(relaxed) == len(rows) == 1 and (rows[0][:, 0] == 0).all()
    targets = rows[0][:, 1:] - 1
    n, p = targets.numel(), 1 / vocab
    assert abs((targets == relaxed[0]).float().mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
    for draw in (targets, relaxed[0]):
        seen = draw.flatten().bincount(minlength=vocab) / n
        assert ((seen - p).abs() < 4.5 * math.sqrt(p * (1 - p) / n)).all()


def test_targets_follow_the_posterior():
    model = slate()
    with torch.no_grad():
        model.dvae.encoder[-1].weight.zero_()
        model.dvae.encoder[-1].bias.copy_(torch.linspace(-2, 2, 11))
    probs = torch.linspace(-2, 2, 11).softmax(0)
    n = 400 * N
    generator = torch.Generator().manual_seed(9)
    draw = model.sample_tokens(images(400), generator)
    seen = draw.flatten().bincount(minlength=11) / n
    assert ((seen - probs).abs() < 4.5 * (probs * (1 - probs) / n).sqrt()).all()
    assert torch.equal(draw, model.sample_tokens(images(400), torch.Generator().manual_seed(9)))
    assert (model.tokenize(images()) == 10).all()


# ---------------------------------------------------------------- dropout


def test_dropout_acts_in_training_only():
    model, t = slate(dropout=0.1), tokens()
    noise, slots = torch.randn(3, 3, 12), torch.randn(3, 3, 12)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model.cross_entropy(t, slots), model.cross_entropy(t, slots))
        assert torch.equal(model.infer_slots(t, noise).slots, model.infer_slots(t, noise).slots)
        model.train()
        assert not torch.equal(model.cross_entropy(t, slots), model.cross_entropy(t, slots))
        assert not torch.equal(model.infer_slots(t, noise).slots, model.infer_slots(t, noise).slots)


@pytest.mark.parametrize("training", [True, False])
def test_where_and_how_much_is_dropped(training):
    """A tenth of: embeddings with positions, attention weights and outputs, feed-forward outputs;
    the rest is scaled by 10/9. Nothing in slot attention or dVAE."""
    p, batch = 0.1, 400
    model, t = slate(dropout=p).train(training), tokens(batch)
    blocks = model.tf_dec.blocks
    with torch.no_grad():
        embedded, clean = model.embed(t), embed(model, t)
        kept = embedded != 0
        torch.testing.assert_close(embedded[kept], clean[kept] / (1 - p if training else 1))
        expected = p if training else 0.0

        def rate_is(zero, expected):
            """To four and a half standard deviations: no zero at all where nothing is dropped."""
            deviation = math.sqrt(expected * (1 - expected) / zero.numel())
            assert abs(zero.float().mean().item() - expected) <= 4.5 * deviation

        rate_is(~kept, expected)
        for block in blocks:
            x = torch.randn(batch, N, 16)
            rate_is(block.ffn(x) == 0, expected)
            for m in (block.self_attn, block.encoder_decoder_attn):
                rate_is(m(x, *m.keys_and_values(x)) == 0, expected)
                # attention weights: proj_o the identity, values that mark their position
                m.proj_o.weight.copy_(torch.eye(16))
                marks = torch.eye(4)[None, None].expand(batch, 4, 4, 4)
                weights = m(x[:, :4], torch.zeros(batch, 4, 4, 4), marks).unflatten(-1, (4, 4))
                # a weight is missing where either dropout, of the weight or of the output, took it;
                # the rest is scaled by both
                rate_is(weights == 0, 1 - (1 - expected) ** 2)
                kept = weights[weights != 0]
                torch.testing.assert_close(kept, torch.full_like(kept, 0.25 / (1 - expected) ** 2))
        noise = torch.randn(batch, 3, 12)
        once, again = (model.slot_attn(clean[:, 1:], noise).slots for _ in range(2))
        assert torch.equal(once, again)
        assert torch.equal(model.tokenize(images()), model.tokenize(images()))
    others = [*model.slot_attn.modules(), *model.dvae.modules()]
    assert not any(isinstance(module, nn.Dropout) for module in others)


# ---------------------------------------------------------------- drawing tokens


@pytest.mark.parametrize("vocab", [2, 11, 4096])
def test_draw_follows_the_probabilities(vocab):
    log_probs = (
        torch.randn(1, vocab, 2, 1, generator=torch.Generator().manual_seed(15)) * 2
    ).log_softmax(1)
    generator, n = torch.Generator().manual_seed(16), 50_000
    drawn = torch.cat(
        [
            sample_categorical(log_probs.expand(1_000, -1, -1, -1), generator)
            for _ in range(n // 1_000)
        ]
    )
    assert drawn.shape == (n, 2) and drawn.dtype == torch.int64
    # rare tokens are counted together: neighbours (// vocab), and such as lie far apart (% groups)
    groups = min(vocab, 64)
    for group in (torch.arange(vocab) * groups // vocab, torch.arange(vocab) % groups):
        for place in range(2):
            p = torch.zeros(groups, dtype=torch.float64).index_add_(
                0, group, log_probs[0, :, place, 0].double().exp()
            )
            seen = group[drawn[:, place]].bincount(minlength=groups) / n
            assert ((seen - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


def test_draw_by_hand_and_place_by_place():
    log_probs = (
        torch.randn(3, 11, 4, 5, generator=torch.Generator().manual_seed(17)) * 2
    ).log_softmax(1)
    u = torch.rand(3, 20, 1, generator=torch.Generator().manual_seed(18))[..., 0]
    drawn = sample_categorical(log_probs, torch.Generator().manual_seed(18))
    assert torch.equal(drawn, draw_by_loops(log_probs, u)) and len(drawn.unique()) > 5
    assert torch.equal(drawn, sample_categorical(log_probs, torch.Generator().manual_seed(18)))
    assert not torch.equal(drawn, sample_categorical(log_probs, torch.Generator().manual_seed(19)))


@pytest.mark.parametrize(
    "u, tokens",
    [(0.0, [1, 0, 2]), (1 - 2**-24, [3, 0, 2]), (0.5, [3, 0, 2]), (0.49999997, [1, 0, 2])],
)
def test_draw_never_returns_what_has_no_probability(monkeypatch, u, tokens):
    """At both ends of what torch.rand can return, and at a boundary between two tokens."""
    probs = torch.tensor([[0, 0.5, 0, 0.5, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]])
    probs = probs.T[None, :, :, None]  # (1, 5 tokens, 3 places, 1)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u))
    assert sample_categorical(probs.log()).tolist() == [tokens]


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_draw_at_the_ends_of_rounded_sums(monkeypatch, u):
    """Sums of many rounded probabilities miss one by a little: still no token of no probability."""
    log_probs = (
        torch.randn(64, 1_000, 1, 1, generator=torch.Generator().manual_seed(20)) * 4
    ).log_softmax(1)
    log_probs[:, ::2] = -math.inf
    log_probs[:, -1] = -math.inf
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u))
    drawn = sample_categorical(log_probs)
    assert log_probs[:, :, 0, 0].gather(1, drawn).isfinite().all()


def test_slots_and_decoder_see_the_same_embeddings():
    """The authors embed once: what is dropped for slot attention is dropped for the decoder."""
    model, seen = slate(dropout=0.3).train(), {}
    model.slot_attn.register_forward_pre_hook(lambda _, args: seen.update(slots=args[0]))
    model.tf_dec.register_forward_pre_hook(lambda _, args: seen.update(decoder=args[0]))
    model(images(), 0.7)
    assert torch.equal(seen["slots"][:, :-1], seen["decoder"][:, 1:]) and (seen["slots"] == 0).any()


# ---------------------------------------------------------------- decoding


def test_cross_entropy_and_its_parts():
    model, t, slots = perturbed(slate()).eval(), tokens(), torch.randn(3, 3, 12)
    log_softmax = decoder_logits(model, embed(model, t)[:, :-1], slots).log_softmax(-1)
    torch.testing.assert_close(
        model.cross_entropy(t, slots),
        -log_softmax.gather(-1, t[:, :, None]).sum((1, 2)),
        rtol=1e-5,
        atol=1e-4,
    )
    noise = torch.randn(3, 3, 12)
    cross_entropy, out = model.autoencode(t, noise)
    inferred = model.infer_slots(t, noise)
    torch.testing.assert_close(out.slots, inferred.slots)
    torch.testing.assert_close(cross_entropy, model.cross_entropy(t, inferred.slots))
    # the cell is the map that was iterated: from the start, n + 1 times for IN
    slots = model.slot_attn.slot_mu + model.slot_attn.slot_log_sigma.exp() * noise
    cell = model.slot_attn.cell(model.embed(t)[:, 1:])
    for _ in range(4):
        slots, masks = cell(slots)
    torch.testing.assert_close(slots, inferred.slots)
    torch.testing.assert_close(masks, inferred.attn)


@pytest.mark.parametrize("changed", [0, 5, N - 1])
def test_the_decoder_is_causal(changed):
    """Token i is seen by the predictions of the tokens after it, and by them only."""
    model, logits = perturbed(slate()).eval(), []
    model.out.register_forward_hook(lambda _, args, out: logits.append(out))
    t, slots = tokens(), torch.randn(3, 3, 12)
    other = t.clone()
    other[:, changed] = (t[:, changed] + 1) % 11
    with torch.no_grad():
        model.cross_entropy(t, slots), model.cross_entropy(other, slots)
    difference = (logits[0] - logits[1]).abs().amax((0, 2))
    assert (difference[: changed + 1] < 1e-5).all() and (difference[changed + 1 :] > 1e-4).all()


def test_generation_with_kept_keys_and_values_equals_the_naive_one():
    model = perturbed(slate(seed=3)).eval()
    slots = torch.randn(6, 3, 12, generator=torch.Generator().manual_seed(10))
    naive = torch.zeros(6, 0, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(N):
            logits = decoder_logits(model, embed(model, naive), slots)[:, -1:]
            naive = torch.cat([naive, logits.argmax(-1)], 1)
    generated = model.generate_tokens(slots)
    assert torch.equal(generated, naive) and len(generated.unique()) > 3
    assert not torch.equal(generated[0], generated[1])


def test_tokens_and_images():
    model, image = perturbed(slate()).eval(), images()
    assert torch.equal(
        model.tokenize(image), dvae_pass(model.dvae.encoder, image).flatten(2).argmax(1)
    )
    t = tokens()
    one_hot = torch.zeros(3, 11, 4, 4)
    for b in range(3):
        for i in range(N):
            one_hot[b, t[b, i], i // 4, i % 4] = 1
    torch.testing.assert_close(
        model.decode_tokens(t),
        dvae_pass(model.dvae.decoder, one_hot).clamp(0, 1),
        rtol=1e-4,
        atol=1e-5,
    )
    assert model.decode_tokens(t).shape == image.shape


# ---------------------------------------------------------------- construction and loading


def test_from_official_names_the_keys_that_do_not_fit():
    model = slate()
    state = dict(model.state_dict())
    state["tf_dec.blocks.0.self_attn_mask"] = torch.ones(N, N)  # the authors save their masks
    loaded = SLATE.from_official(state, SMALL)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    missing = {k: v for k, v in state.items() if k != "slot_proj.weight"}
    with pytest.raises(RuntimeError, match="slot_proj.weight"):
        SLATE.from_official(missing, SMALL)
    with pytest.raises(RuntimeError, match="surplus.weight"):
        SLATE.from_official({**state, "surplus.weight": torch.ones(1)}, SMALL)
    with pytest.raises(RuntimeError, match="out.weight"):
        SLATE.from_official({**state, "out.weight": torch.ones(12, 16)}, SMALL)


def test_image_size_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="18.*multiple of 4"):
        slate(image_size=18)


def test_sizes_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="num_heads"):
        slate(d_model=18, num_heads=4)
    with pytest.raises(ValueError, match="num_heads"):
        slate(slot_size=12, num_slot_heads=5)


def test_slot_noise_is_drawn_afresh_and_can_be_given():
    model, t = slate().eval(), tokens()
    noise = torch.randn(3, 3, 12)
    assert torch.equal(model.infer_slots(t, noise).slots, model.infer_slots(t, noise).slots)
    assert not torch.equal(model.infer_slots(t).slots, model.infer_slots(t).slots)
    torch.manual_seed(0)
    drawn = model.infer_slots(t).slots
    torch.manual_seed(0)
    assert torch.equal(drawn, model.infer_slots(t, torch.randn(3, 3, 12)).slots)


def test_an_image_does_not_depend_on_its_batch():
    for choice in ("IN", "BN"):
        model, t, noise = perturbed(slate(variant=choice)).eval(), tokens(4), torch.randn(4, 3, 12)
        together, alone = model.infer_slots(t, noise), model.infer_slots(t[2:3], noise[2:3])
        torch.testing.assert_close(together.slots[2:3], alone.slots, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            model.cross_entropy(t, together.slots)[2:3],
            model.cross_entropy(t[2:3], together.slots[2:3]),
            rtol=1e-5,
            atol=1e-4,
        )
