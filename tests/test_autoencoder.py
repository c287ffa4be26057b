"""Locatello et al.'s autoencoder against straight-line re-implementations; its training, its
scores, and its runs."""

import math
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from paper_lib import data, runs
from paper_lib.data import Dataset
from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.metrics import (
    foreground_ari,
    grid_segments,
    mask_scores,
    mean_iou,
    random_segments,
    segments,
)
from paper_lib.models import AutoencoderConfig, SlotAttentionAutoEncoder, variant
from paper_lib.models.conv_encoder import ConvEncoder, PositionEmbedding
from paper_lib.paper import parameters
from paper_lib.training.autoencoder import AutoencoderRunConfig, AutoencoderTask
from paper_lib.training.config import ARITHMETIC, DataConfig, TrainingConfig
from paper_lib.training.loop import train
from paper_lib.training.slots import slot_noise
from paper_lib.training.task import to_float

# sizes that differ wherever they may, so that none can stand in for another
SMALL = AutoencoderConfig(
    image_size=16,
    channels=6,
    strides=(1, 2),
    slot_size=10,
    mlp_hidden_size=14,
    num_slots=3,
    num_iterations=3,
    broadcast_size=4,
    decoder_channels=6,
    decoder_strides=(2, 2, 1),
    variant="IN",
)
RUN = AutoencoderRunConfig(
    model=SMALL,
    data=DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    training=TrainingConfig(
        lr=1e-3,
        steps=4,
        batch_size=4,
        warmup_steps=3,
        clip=None,
        lr_decay_epochs=None,
        decay_steps=8,
        log_every=1,
        eval_every=2,
        arithmetic=ARITHMETIC,
    ),
    eval_images=8,
    jacobian_images=2,
    residual_steps=3,
    test_images=7,
    sample_images=3,
    test_slots=(3, 5),
    test_iterations=(3, 6),
)
INITIAL_SLOTS = {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"}


def autoencoder(seed=0, **changes):
    torch.manual_seed(seed)
    return SlotAttentionAutoEncoder(replace(SMALL, **changes))


def images(batch=2, size=16):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def noise(batch=2, slots=3):
    return torch.randn(batch, slots, 10, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def scenes(root):
    return [RUN.data.load(name) for name in ("train", "validation", "test")]


def build(scenes, config=RUN):
    torch.manual_seed(config.seed)
    return AutoencoderTask(config, *scenes)


# ---- encoder and decoder ----


def test_the_position_embedding_is_linear_in_x_y_and_their_opposites():
    module = PositionEmbedding(4, 3)
    with torch.no_grad():
        module.project.weight.copy_(torch.eye(4))
        module.project.bias.copy_(torch.tensor([0.0, 10, 0, 0]))
    added = module(torch.ones(2, 4, 3, 3)) - 1
    for row, column, expected in [
        (0, 0, [0.0, 10, 1, 1]),
        (0, 2, [1.0, 10, 0, 1]),
        (1, 0, [0.0, 10.5, 1, 0.5]),
        (2, 1, [0.5, 11, 0.5, 0]),
    ]:
        torch.testing.assert_close(added[1, :, row, column], torch.tensor(expected))
    assert set(module.state_dict()) == {"project.weight", "project.bias"}


@pytest.mark.parametrize("strides, side", [((1, 2), 8), ((1, 1, 1, 1), 16), ((1, 2, 2, 1), 4)])
def test_the_encoder_line_by_line(strides, side):
    torch.manual_seed(0)
    encoder, image = ConvEncoder(16, 6, strides), images()
    x = 2 * image - 1
    for stride, layer in zip(strides, encoder.cnn[::2], strict=True):
        x = F.relu(F.conv2d(x, layer.weight, layer.bias, stride=stride, padding=2))
    x = encoder.position(x)
    features = encoder(image)
    assert encoder.side == side
    assert features.shape == (2, side * side, 6)
    for row, column in [(0, 0), (0, 1), (side - 1, 0)]:
        torch.testing.assert_close(features[:, row * side + column], x[:, :, row, column])


def transposed(x, layer):
    x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=2, output_padding=1)
    return F.relu(x)


def test_the_decoder_line_by_line():
    """Every slot by itself; the softmax is all that they share."""
    model, slots = autoencoder(), noise(slots=4)
    with torch.no_grad():
        for p in model.decoder.parameters():  # biases start at zero, which would hide a missing one
            p.add_(0.1 * torch.randn_like(p))
    reconstruction, components, masks = model.decode(slots)
    decoder, logits = model.decoder, []
    first, second, third, last = decoder.cnn[::2]
    for k in range(4):
        x = decoder.position(slots[:, k, :, None, None].repeat(1, 1, 4, 4))
        x = transposed(transposed(x, first), second)
        x = F.relu(F.conv2d(x, third.weight, third.bias, padding=2))
        x = F.conv2d(x, last.weight, last.bias, padding=1)
        torch.testing.assert_close(components[:, k], (x[:, :3] + 1) / 2)
        logits.append(x[:, 3])
    weights = torch.stack(logits, 1).exp()
    weights = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(masks, weights)
    mixed = sum(weights[:, k, None] * components[:, k] for k in range(4))
    torch.testing.assert_close(reconstruction, mixed)
    assert components.std() > 0.01
    assert masks.std() > 0.01


def test_decoding_is_equivariant_to_the_order_of_the_slots():
    model, slots, order = autoencoder(), noise(slots=4), torch.tensor([2, 0, 3, 1])
    one, components, masks = model.decode(slots)
    two, permuted, permuted_masks = model.decode(slots[:, order])
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(components[:, order], permuted)
    torch.testing.assert_close(masks[:, order], permuted_masks)
    assert not torch.allclose(components, permuted)


@pytest.mark.parametrize(
    "image_size, broadcast_size, strides", [(16, 8, (2,)), (32, 4, (2, 1, 2, 2)), (8, 8, (1, 1))]
)
def test_the_decoder_reaches_the_images_size(image_size, broadcast_size, strides):
    sizes = {"image_size": image_size, "broadcast_size": broadcast_size}
    model = autoencoder(**sizes, decoder_strides=strides)
    _, components, _ = model.decode(noise())
    assert components.shape == (2, 3, 3, image_size, image_size)
    assert [layer.stride[0] for layer in model.decoder.cnn[::2]] == [*strides, 1]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"image_size": 24}, "24.*broadcast_size 4 "),
        ({"broadcast_size": 32}, "broadcast_size 32"),
        ({"decoder_strides": ()}, "decoder_strides"),
        ({"decoder_strides": (1, 4)}, "ones and twos"),
        ({"image_size": 16, "strides": (1, 3)}, "multiple of their product"),
        ({"strides": ()}, "at least one"),
        ({"variant": "XX"}, "'XX'"),
    ],
)
def test_sizes_that_do_not_fit(wrong, words):
    with pytest.raises(ValueError, match=words):
        autoencoder(**wrong)


def test_starting_apart():
    """PyTorch's own weights, and three that are larger; what is no linear layer and no convolution
    stays as the authors draw it."""
    usual, apart = autoencoder().state_dict(), autoencoder(init="apart").state_dict()
    gains = {
        "encoder.position.project.weight": 2,
        "decoder.position.project.weight": 4,
        "slot_attn.slot_attention.project_q.weight": 6,
    }
    assert set(gains) < set(usual) == set(apart)
    stays = ("gru", "slot_mu", "slot_log_sigma", "norm")
    for name, weight in apart.items():
        if any(part in name for part in stays):
            torch.testing.assert_close(weight, usual[name])
        elif name.endswith("weight") and weight.dim() == 2:
            bound = gains.get(name, 1) * weight.shape[1] ** -0.5
            assert 0.8 * bound < weight.abs().max() <= bound, name
    assert not apart["slot_attn.mlp.0.bias"].any()
    assert not apart["slot_attn.mlp.2.bias"].any()


def test_positions_that_start_apart_are_zero_in_the_middle():
    model = autoencoder(init="apart")
    for part in (model.encoder, model.decoder):
        position = part.position
        nothing = torch.zeros(1, position.project.out_features, *position.grid.shape[:2])
        embedding = position(nothing)
        torch.testing.assert_close(embedding, -embedding.flip(2, 3))


def test_another_start_is_refused():
    with pytest.raises(ValueError, match="'closer'"):
        autoencoder(init="closer")


# ---- the model ----


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB"])
def test_shapes_and_masks(choice):
    out = autoencoder(variant=choice)(images(), noise())
    assert out.reconstruction.shape == (2, 3, 16, 16)
    assert out.components.shape == (2, 3, 3, 16, 16)
    assert out.masks.shape == (2, 3, 16, 16)
    assert out.slots.shape == (2, 3, 10)
    assert out.attn.shape == (2, 64, 3)
    torch.testing.assert_close(out.masks.sum(1), torch.ones(2, 16, 16))
    torch.testing.assert_close(out.attn.sum(2), torch.ones(2, 64))
    mixed = (out.masks[:, :, None] * out.components).sum(1)
    torch.testing.assert_close(out.reconstruction, mixed)
    assert out.solution.value is out.slots
    assert len(out.solution.steps) == 2


def test_parameters_at_the_papers_size():
    """A convolution has out * in * 25 + out: 3 -> 64: 4,864; 64 -> 64: 102,464; and of 3 x 3, 64 ->
    4: 2,308. A position embedding has 320."""
    encoder = 4_864 + 3 * 102_464 + 320
    inputs = 128 + 2 * (64 * 64 + 64)  # layer norm and MLP
    slots = 2 * 64 + 3 * 128 + 3 * 64 * 64  # mean and scale, norms, q k v
    slots += 2 * 192 * 64 + 2 * 192 + (64 * 128 + 128) + (128 * 64 + 64)  # GRU, MLP
    decoder = 320 + 5 * 102_464 + 2_308  # four transposed convolutions and one of stride 1
    model = SlotAttentionAutoEncoder(AutoencoderConfig())
    count = sum(p.numel() for p in model.parameters())
    assert count == encoder + inputs + slots + decoder == 890_308
    assert model.encoder.side == 128


@pytest.mark.parametrize("choice", ["vanilla", "IN", "IB"])
def test_gradients_reach_every_parameter(choice):
    model = autoencoder(variant=choice)
    F.mse_loss(model(images(), noise()).reconstruction, images()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    without = {name for name, gradient in gradients.items() if gradient is None}
    # only the unrolled loop tells the initial guess anything
    assert without == (set() if choice == "vanilla" else INITIAL_SLOTS)
    zero = {name for name in gradients.keys() - without if not gradients[name].any()}
    # a shift of the normalised slots cancels in the softmax over slots: its gradient is nothing
    # but rounding
    assert zero <= {"slot_attn.slot_attention.norm_slots.bias"}


@pytest.mark.parametrize("n", [1, 3])
def test_vanilla_and_implicit_differ_in_their_gradients_alone(n):
    """IN applies the cell once more, at the fixed point: vanilla with one iteration more computes
    the same."""
    vanilla = autoencoder(variant="vanilla", num_iterations=n + 1)
    implicit = autoencoder(variant="IN", num_iterations=n)
    one, two = vanilla(images(), noise()), implicit(images(), noise())
    torch.testing.assert_close(one.reconstruction, two.reconstruction)
    torch.testing.assert_close(one.attn, two.attn)
    for out in (one, two):
        F.mse_loss(out.reconstruction, images()).backward()
    cells = [model.slot_attn.slot_attention.project_q.weight.grad for model in (vanilla, implicit)]
    assert not torch.allclose(*cells, rtol=1e-2)
    # what comes after the slots has the same gradient
    decoders = [model.decoder.cnn[0].weight.grad for model in (vanilla, implicit)]
    torch.testing.assert_close(*decoders, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB", "AN"])
def test_more_iterations_and_slots_at_test_time(choice):
    model, longer = autoencoder(variant=choice), autoencoder(variant=choice, num_iterations=6)
    (six, _), (three, _) = variant(choice, 6), variant(choice, 3)
    five = noise(slots=5)
    with torch.no_grad():
        out, usual = model(images(), five, six), model(images(), five)
        same = longer(images(), five)
        again = model(images(), five, three)
    torch.testing.assert_close(out.reconstruction, same.reconstruction)
    assert out.masks.shape == (2, 5, 16, 16)
    assert out.attn.shape == (2, 64, 5)
    assert not torch.equal(out.slots, usual.slots)
    assert torch.equal(usual.slots, again.slots), "the model is as it was"


def test_slot_noise_is_drawn_afresh_and_can_be_given():
    model = autoencoder().eval()
    assert torch.equal(model(images(), noise()).slots, model(images(), noise()).slots)
    assert not torch.equal(model(images()).slots, model(images()).slots)
    torch.manual_seed(0)
    drawn = model(images()).slots
    torch.manual_seed(0)
    assert torch.equal(drawn, model(images(), torch.randn(2, 3, 10)).slots)


# ---- the task ----


def grey_task():
    """Four pictures of 0.2 everywhere, with two objects of a quarter of the pixels each, in the
    last picture one; and a decoder whose last layer is zero.

    It draws grey, 0.5, from every slot alike: all pixels go to the first slot.
    """
    pictures = np.full((4, 16, 16, 3), 51, np.uint8)
    masks = np.zeros((4, 16, 16), np.uint8)
    masks[:, :4], masks[:, 12:] = 1, 2
    masks[3, 12:] = 0
    dataset = Dataset(images=pictures, indices=np.arange(4), source={}, masks=masks)
    task = build([dataset] * 3)
    for p in task.model.decoder.cnn[-1].parameters():
        torch.nn.init.zeros_(p)
    return task


def test_the_error_and_the_masks_by_hand():
    task = grey_task()
    loss, logs = task.loss(task.batch(np.arange(4)), 0)
    assert loss.item() == logs["mse"].item() == pytest.approx(0.3**2, rel=1e-5)
    metrics = task.evaluate()
    assert metrics["val_mse"] == pytest.approx(0.3**2, rel=1e-5)
    assert metrics["foreground_ari"] == pytest.approx((0 + 0 + 0 + 1) / 4)
    assert metrics["mean_iou"] == pytest.approx((3 * 0.25 / 2 + 0.25) / 4)


def test_the_final_scores_by_hand():
    final = grey_task().final()
    assert final["test_images"] == 4
    assert final["test_images_objects_2"] == 3
    assert final["test_images_objects_1"] == 1
    assert final["test_foreground_ari_objects_1"] == 1
    assert final["test_foreground_ari_objects_2"] == pytest.approx(0)
    assert final["test_mse_slots_5"] == pytest.approx(0.09, rel=1e-5)


def test_evaluation_is_what_the_model_computes(scenes):
    task = build(scenes)
    metrics = task.evaluate()
    image, true = to_float(scenes[1].images[:8]), np.array(scenes[1].masks[:8])
    assert set(np.unique(true)) > {0, 1, 2}
    with torch.no_grad():
        out = task.model(image, slot_noise(task.model.slot_attn, 8, seed=0))
    error = (out.reconstruction - image).square().mean().item()
    assert metrics["val_mse"] == pytest.approx(error, rel=1e-5)
    found = {"": out.masks.argmax(1).numpy(), "attn_": segments(out.attn, 16)}
    for prefix, masks in found.items():
        ari, iou = np.mean(foreground_ari(true, masks)), np.mean(mean_iou(true, masks))
        assert metrics[f"{prefix}foreground_ari"] == pytest.approx(ari, abs=1e-9)
        assert metrics[f"{prefix}mean_iou"] == pytest.approx(iou, abs=1e-9)


def test_residuals_and_the_spectral_norm_are_those_of_the_cell(scenes):
    """Step by step, and of the whole Jacobian."""
    task = build(scenes)
    metrics, encoder = task.evaluate(), task.model.slot_attn
    image = to_float(scenes[1].images[:2])
    iterates = []
    with torch.no_grad():
        cell = encoder.cell(task.model.encoder(image))
        slots = encoder.initial_slots(slot_noise(encoder, 2, seed=0))
        for _ in range(RUN.residual_steps + 1):
            iterates.append(slots)
            slots = cell(slots)[0]
    for n, (old, new) in enumerate(zip(iterates, iterates[1:]), start=1):
        residual = (new - old).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)
        assert metrics[f"residual_{n}"] == pytest.approx(residual.mean().item(), rel=1e-4)
    # IN: three iterations, and one application more, which is `slots`
    whole = torch.autograd.functional.jacobian(lambda z: cell(z)[0], slots)
    exact = torch.stack([whole[b, :, :, b].reshape(30, 30) for b in range(2)])
    norm = torch.linalg.matrix_norm(exact, 2).mean().item()
    assert metrics["spectral_norm"] == pytest.approx(norm, rel=1e-3)


def test_evaluation_leaves_random_states_alone(scenes):
    task = build(scenes)
    task.model.eval()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = task.evaluate()
    task.samples()
    task.cell()
    assert torch.equal(before, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert first == task.evaluate(), "the same draws at every evaluation"
    assert not any(p.grad is not None for p in task.model.parameters())


SCORES = ("mse", "foreground_ari", "mean_iou", "attn_foreground_ari", "attn_mean_iou")


def test_final_scores_in_several_settings(scenes):
    final = build(scenes).final()
    for name in SCORES:  # 3 slots and 3 iterations are how it is trained
        assert final[f"test_{name}"] == final[f"test_{name}_slots_3"]
        assert final[f"test_{name}"] == final[f"test_{name}_iterations_3"]
    assert final["test_mse"] != final["test_mse_slots_5"]
    assert final["test_mse"] != final["test_mse_iterations_6"]
    assert all(type(value) is float and math.isfinite(value) for value in final.values())


def test_final_scores_by_the_number_of_objects(scenes):
    final = build(scenes).final()
    counts = [n for n in (1, 2, 3, 4) if f"test_images_objects_{n}" in final]
    assert len(counts) > 1
    for name in SCORES:
        parts = [
            final[f"test_images_objects_{n}"] * final[f"test_{name}_objects_{n}"] for n in counts
        ]
        assert sum(parts) / 7 == pytest.approx(final[f"test_{name}"])


def test_final_scores_of_masks_that_know_nothing(scenes):
    final = build(scenes).final()
    true = np.array(scenes[2].masks[:7])
    grid = np.mean(mean_iou(true, grid_segments(true.shape, 3)))
    assert final["grid_mean_iou"] == pytest.approx(grid)
    random = np.mean(foreground_ari(true, random_segments(true.shape, 3, seed=0)))
    assert final["random_foreground_ari"] == pytest.approx(random)


def test_crowded_scenes_are_scored_with_a_slot_for_each_object_and_one_more(scenes):
    crowded = replace(RUN.data, min_objects=4, max_objects=4)
    task = build(scenes, replace(RUN, crowded=crowded))
    final = task.final()
    test = crowded.load("test")
    image, true = to_float(test.images[:7]), np.array(test.masks[:7])
    with torch.no_grad():
        out = task.model(image, slot_noise(task.model.slot_attn, 7, seed=0, num_slots=5))
    objects = np.array([len(set(mask[mask > 0].tolist())) for mask in true])
    scores = mask_scores(true, out.masks.argmax(1).numpy())
    for n in set(objects.tolist()):
        expected = np.mean(scores["mean_iou"][objects == n])
        assert final[f"crowded_mean_iou_objects_{n}"] == pytest.approx(expected)
        assert final[f"crowded_images_objects_{n}"] == (objects == n).sum()


def test_pictures_without_masks_have_no_scores_of_masks(scenes):
    task = build([replace(split, masks=None) for split in scenes])
    metrics = task.evaluate()
    assert type(metrics["val_mse"]) is float
    for name in metrics | task.final():
        assert "ari" not in name
        assert "iou" not in name
    assert "true_masks" not in task.samples()


def test_a_model_that_does_not_fit_its_data_is_refused(scenes):
    with pytest.raises(ValueError, match="16 and 32"):
        build(scenes, replace(RUN, data=replace(RUN.data, size=32)))


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_few_steps_reduce_the_error(scenes, choice, tmp_path):
    task = build(scenes, replace(RUN, model=replace(SMALL, variant=choice)))
    before = task.evaluate()["val_mse"]
    training = replace(RUN.training, steps=30, warmup_steps=0, decay_steps=None, eval_every=30)
    outcome = train(task, training, 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished"
    assert rows["val_mse"].iloc[-1] < 0.7 * before
    assert rows["grad_norm_slot_attention"].gt(0).all()
    assert rows["grad_norm_slot_attention"].lt(rows["grad_norm_all"]).all()


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(scenes, choice, tmp_path):
    config = replace(RUN, model=replace(SMALL, variant=choice))
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = build(scenes, config)
    train(whole, RUN.training, 0, folders[0])
    train(build(scenes, config), replace(RUN.training, steps=2), 0, folders[1])
    # other weights and random state: both are the checkpoint's again
    resumed = build(scenes, replace(config, seed=5))
    train(resumed, RUN.training, 0, folders[1])
    written = [(folder / "metrics.csv").read_bytes() for folder in folders]
    assert written[0] == written[1]
    theirs = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_the_learning_rate_warms_up_and_decays(scenes, tmp_path):
    train(build(scenes), RUN.training, 0, tmp_path)
    lr = pd.read_csv(tmp_path / "metrics.csv")["lr"]
    expected = [1e-3 * min(1, (k + 1) / 3) * 0.5 ** (k / 8) for k in range(4)]
    assert lr.tolist() == pytest.approx(expected, rel=1e-4)


# ---- a run ----


def test_a_run(elsewhere):
    run = runs.get(RUN, parameters.check("smoke", if_missing="train"))
    assert run.folder.name.startswith("autoencoder-IN-seed0-")
    assert run.summary["status"] == "finished"
    kept = {"val_mse", "foreground_ari", "spectral_norm", "test_mse", "test_mean_iou_slots_5"}
    assert kept | {"grid_mean_iou"} <= set(run.summary["final"])
    shapes = {
        "image": (3, 16, 16, 3),
        "reconstruction": (3, 16, 16, 3),
        "components": (3, 3, 16, 16, 3),
        "masks": (3, 3, 16, 16),
        "attn": (3, 64, 3),
        "true_masks": (3, 16, 16),
    }
    samples = run.samples
    assert {name: value.shape for name, value in samples.items()} == shapes
    for name in ("image", "reconstruction", "components", "masks"):
        assert samples[name].dtype == np.uint8
    assert np.abs(samples["masks"].astype(int).sum(1) - 255).max() <= 2

    model = SlotAttentionAutoEncoder(SMALL)
    model.load_state_dict(run.weights)
    image = to_float(RUN.data.load("test").images[:4])
    with torch.no_grad():
        pictures = model(image[:3], slot_noise(model.slot_attn, 3, seed=0)).reconstruction
        out = model(image, slot_noise(model.slot_attn, 4, seed=0))
        attention, inputs, slots = run.cell(Iteration(4), Unrolled())
        found = attention(inputs, slots).value
    pictures = (pictures.clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()
    np.testing.assert_array_equal(samples["reconstruction"], pictures)
    assert inputs.shape == (4, 64, 6)
    assert slots.shape == (4, 3, 10)
    torch.testing.assert_close(found, out.slots, rtol=2e-2, atol=2e-2)


def test_clevr_has_no_mirror(monkeypatch):
    asked = []

    def load(name, split, size, **settings):
        asked.append(settings | {"name": name, "size": size})

    monkeypatch.setattr(data, "load", load)
    AutoencoderRunConfig().data.load("train")
    DataConfig().load("train")
    clevr, mirrored = asked
    assert (clevr["name"], clevr["size"], clevr["max_objects"]) == ("clevr", 128, 6)
    assert not clevr["mirror"]
    assert (mirrored["name"], mirrored["max_objects"]) == ("clevr_mirror", 10)
    assert mirrored["mirror"]


def values(config):
    return {f.name: getattr(config, f.name) for f in fields(config)}


def test_the_defaults_are_the_papers():
    """And for ever: what is equal to a default is not in a run's hash."""
    assert values(AutoencoderConfig()) == {
        "image_size": 128,
        "channels": 64,
        "strides": (1, 1, 1, 1),
        "slot_size": 64,
        "mlp_hidden_size": 128,
        "num_slots": 7,
        "num_iterations": 3,
        "broadcast_size": 8,
        "decoder_channels": 64,
        "decoder_strides": (2, 2, 2, 2, 1),
        "init": "authors",
        "variant": "IN",
        "solver": None,
        "adjoint": None,
    }
    assert values(AutoencoderRunConfig()) == {
        "model": AutoencoderConfig(),
        "data": DataConfig(name="clevr", size=128, num_scenes=100_000, max_objects=6, crop=True),
        "training": TrainingConfig(
            lr=4e-4,
            steps=500_000,
            batch_size=64,
            warmup_steps=10_000,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=100_000,
            log_every=100,
            eval_every=5_000,
        ),
        "seed": 0,
        "eval_images": 320,
        "jacobian_images": 32,
        "residual_steps": 21,
        "test_images": 320,
        "sample_images": 12,
        "test_slots": (9, 11),
        "test_iterations": (1, 2, 5, 7, 11),
        "crowded": None,
    }
    assert runs.run_id(AutoencoderRunConfig()) == "autoencoder-IN-seed0-7b39778d72"
