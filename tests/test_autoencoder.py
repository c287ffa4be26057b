"""Locatello et al.'s autoencoder against straight-line re-implementations; its training, its scores, and its runs."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from paper_lib import data, runs
from paper_lib.data import Dataset
from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.metrics import foreground_ari, grid_segments, mean_iou, random_segments, segments
from paper_lib.models import AutoencoderConfig, SlotAttentionAutoEncoder, variant
from paper_lib.models.conv_encoder import ConvEncoder, PositionEmbedding
from paper_lib.paper import parameters
from paper_lib.training.autoencoder import AutoencoderRunConfig, AutoencoderTask
from paper_lib.training.config import DataConfig, TrainingConfig
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
    SMALL,
    DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    TrainingConfig(
        steps=4,
        batch_size=4,
        warmup_steps=3,
        clip=None,
        lr_decay_epochs=None,
        log_every=1,
        eval_every=2,
        decay_steps=8,
    ),
    lr=1e-3,
    eval_images=8,
    jacobian_images=2,
    residual_steps=3,
    test_images=7,
    sample_images=3,
    test_slots=(3, 5),
    test_iterations=(3, 6),
)


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


# ---------------------------------------------------------------- encoder and decoder


def test_the_position_embedding_is_linear_in_x_y_and_their_opposites():
    module = PositionEmbedding(4, 3)
    with torch.no_grad():
        module.project.weight.copy_(torch.eye(4))
        module.project.bias.copy_(torch.tensor([0.0, 10, 0, 0]))
    added = module(torch.ones(2, 4, 3, 3)) - 1
    for row, column, expected in [
        (0, 0, [0, 10, 1, 1]),
        (0, 2, [1, 10, 0, 1]),
        (1, 0, [0, 10.5, 1, 0.5]),
        (2, 1, [0.5, 11, 0.5, 0]),
    ]:
        torch.testing.assert_close(
            added[1, :, row, column], torch.tensor(expected, dtype=torch.float32)
        )
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
    assert encoder.side == side and features.shape == (2, side * side, 6)
    for row, column in [(0, 0), (0, 1), (side - 1, 0)]:
        torch.testing.assert_close(features[:, row * side + column], x[:, :, row, column])


def test_the_decoder_line_by_line():
    """Every slot by itself; the softmax is all that they share."""
    model, slots = autoencoder(), noise(slots=4)
    with torch.no_grad():
        for p in model.decoder.parameters():  # biases start at zero, which would hide a missing one
            p.add_(0.1 * torch.randn_like(p))
    reconstruction, components, masks = model.decode(slots)
    decoder, logits = model.decoder, []
    up, last = decoder.cnn[0:4:2], decoder.cnn[4::2]
    for k in range(4):
        x = decoder.position(slots[:, k, :, None, None].repeat(1, 1, 4, 4))
        for layer in up:
            x = F.relu(
                F.conv_transpose2d(
                    x, layer.weight, layer.bias, stride=2, padding=2, output_padding=1
                )
            )
        x = F.relu(F.conv2d(x, last[0].weight, last[0].bias, padding=2))
        x = F.conv2d(x, last[1].weight, last[1].bias, padding=1)
        torch.testing.assert_close(components[:, k], (x[:, :3] + 1) / 2)
        logits.append(x[:, 3])
    weights = torch.stack(logits, 1).exp()
    weights = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(masks, weights)
    torch.testing.assert_close(
        reconstruction, sum(weights[:, k, None] * components[:, k] for k in range(4))
    )
    assert components.std() > 0.01 and masks.std() > 0.01


def test_decoding_is_equivariant_to_the_order_of_the_slots():
    model, slots, order = autoencoder(), noise(slots=4), torch.tensor([2, 0, 3, 1])
    (one, components, masks), (two, permuted, permuted_masks) = (
        model.decode(slots),
        model.decode(slots[:, order]),
    )
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(components[:, order], permuted)
    torch.testing.assert_close(masks[:, order], permuted_masks)
    assert not torch.allclose(components, permuted)


@pytest.mark.parametrize(
    "image_size, broadcast_size, strides", [(16, 8, (2,)), (32, 4, (2, 1, 2, 2)), (8, 8, (1, 1))]
)
def test_the_decoder_reaches_the_images_size(image_size, broadcast_size, strides):
    model = autoencoder(
        image_size=image_size, broadcast_size=broadcast_size, decoder_strides=strides
    )
    assert model.decode(noise())[1].shape == (2, 3, 3, image_size, image_size)
    assert [layer.stride[0] for layer in model.decoder.cnn[::2]] == [*strides, 1]


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(image_size=24), "24.*broadcast_size 4 "),
        (dict(broadcast_size=32), "broadcast_size 32"),
        (dict(decoder_strides=()), "decoder_strides"),
        (dict(decoder_strides=(1, 4)), "ones and twos"),
        (dict(image_size=16, strides=(1, 3)), "multiple of their product"),
        (dict(strides=()), "at least one"),
        (dict(variant="XX"), "'XX'"),
    ],
)
def test_sizes_that_do_not_fit(wrong, words):
    with pytest.raises(ValueError, match=words):
        autoencoder(**wrong)


def test_starting_apart():
    """PyTorch's own weights, and three that are larger; what is no linear layer and no convolution stays as the authors draw it."""
    usual, apart = autoencoder().state_dict(), autoencoder(init="apart").state_dict()
    gains = {
        "encoder.position.project.weight": 2,
        "decoder.position.project.weight": 4,
        "slot_attn.slot_attention.project_q.weight": 6,
    }
    assert set(gains) < set(usual) == set(apart)
    for name, weight in apart.items():
        if "gru" in name or "slot_mu" in name or "slot_log_sigma" in name or "norm" in name:
            torch.testing.assert_close(weight, usual[name])
        elif name.endswith("weight") and weight.dim() == 2:
            bound = gains.get(name, 1) * weight.shape[1] ** -0.5
            assert 0.8 * bound < weight.abs().max() <= bound, name
    for part in (autoencoder(init="apart").encoder, autoencoder(init="apart").decoder):
        embedding = part.position(
            torch.zeros(1, part.position.project.out_features, *part.position.grid.shape[:2])
        )
        torch.testing.assert_close(embedding, -embedding.flip(2, 3))  # zero in the middle
    assert not apart["slot_attn.mlp.0.bias"].any() and not apart["slot_attn.mlp.2.bias"].any()
    with pytest.raises(ValueError, match="'closer'"):
        autoencoder(init="closer")


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB"])
def test_shapes_and_masks(choice):
    out = autoencoder(variant=choice)(images(), noise())
    assert out.reconstruction.shape == (2, 3, 16, 16) and out.components.shape == (2, 3, 3, 16, 16)
    assert (
        out.masks.shape == (2, 3, 16, 16)
        and out.slots.shape == (2, 3, 10)
        and out.attn.shape == (2, 64, 3)
    )
    torch.testing.assert_close(out.masks.sum(1), torch.ones(2, 16, 16))
    torch.testing.assert_close(out.attn.sum(2), torch.ones(2, 64))
    torch.testing.assert_close(out.reconstruction, (out.masks[:, :, None] * out.components).sum(1))
    assert out.solution.value is out.slots and len(out.solution.steps) == 2


def test_parameters_at_the_papers_size():
    """Convolution: out * in * 25 + out. 3 -> 64: 4,864; 64 -> 64: 102,464; 64 -> 4, 3x3: 2,308. Position embedding: 320."""
    encoder = 4_864 + 3 * 102_464 + 320
    inputs = 128 + 2 * (64 * 64 + 64)  # layer norm and MLP
    slots = 2 * 64 + 3 * 128 + 3 * 64 * 64  # mean and scale, norms, q k v
    slots += 2 * 192 * 64 + 2 * 192 + (64 * 128 + 128) + (128 * 64 + 64)  # GRU, MLP
    decoder = (
        320 + 5 * 102_464 + 2_308
    )  # four transposed convolutions and one of stride 1, the last
    model = SlotAttentionAutoEncoder(AutoencoderConfig())
    assert (
        sum(p.numel() for p in model.parameters()) == encoder + inputs + slots + decoder == 890_308
    )
    assert model.encoder.side == 128


@pytest.mark.parametrize("choice", ["vanilla", "IN", "IB"])
def test_gradients_reach_every_parameter(choice):
    model = autoencoder(variant=choice)
    F.mse_loss(model(images(), noise()).reconstruction, images()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    # only the unrolled loop tells the initial guess anything
    assert without == (
        set() if choice == "vanilla" else {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"}
    )
    reached = {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    # a shift of the normalised slots cancels in the softmax over slots: its gradient is nothing but rounding
    assert reached | without | {"slot_attn.slot_attention.norm_slots.bias"} == {
        name for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize("n", [1, 3])
def test_vanilla_and_implicit_differ_in_their_gradients_alone(n):
    """IN applies the cell once more, at the fixed point: vanilla with one iteration more computes the same."""
    vanilla, implicit = (
        autoencoder(variant="vanilla", num_iterations=n + 1),
        autoencoder(variant="IN", num_iterations=n),
    )
    one, two = vanilla(images(), noise()), implicit(images(), noise())
    torch.testing.assert_close(one.reconstruction, two.reconstruction)
    torch.testing.assert_close(one.attn, two.attn)
    for out, model in ((one, vanilla), (two, implicit)):
        F.mse_loss(out.reconstruction, images()).backward()
        model.gradient = model.slot_attn.slot_attention.project_q.weight.grad
    assert not torch.allclose(vanilla.gradient, implicit.gradient, rtol=1e-2)
    # what comes after the slots has the same gradient
    torch.testing.assert_close(
        vanilla.decoder.cnn[0].weight.grad,
        implicit.decoder.cnn[0].weight.grad,
        rtol=1e-4,
        atol=1e-7,
    )


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB", "AN"])
def test_more_iterations_and_slots_at_test_time(choice):
    model, longer = autoencoder(variant=choice), autoencoder(variant=choice, num_iterations=6)
    (six, _), (three, _) = variant(choice, 6), variant(choice, 3)
    with torch.no_grad():
        out, usual = model(images(), noise(slots=5), six), model(images(), noise(slots=5))
        torch.testing.assert_close(
            out.reconstruction, longer(images(), noise(slots=5)).reconstruction
        )
        assert out.masks.shape == (2, 5, 16, 16) and out.attn.shape == (2, 64, 5)
        assert not torch.equal(out.slots, usual.slots)
        again = model(images(), noise(slots=5), three)
        assert torch.equal(usual.slots, again.slots), "the model is as it was"


def test_slot_noise_is_drawn_afresh_and_can_be_given():
    model = autoencoder().eval()
    assert torch.equal(model(images(), noise()).slots, model(images(), noise()).slots)
    assert not torch.equal(model(images()).slots, model(images()).slots)
    torch.manual_seed(0)
    drawn = model(images()).slots
    torch.manual_seed(0)
    assert torch.equal(drawn, model(images(), torch.randn(2, 3, 10)).slots)


# ---------------------------------------------------------------- the task


def test_the_error_and_the_masks_by_hand():
    """A decoder whose last layer is zero draws grey, 0.5, from every slot alike: the error is known, and all pixels go to the first slot."""
    pictures = np.full((4, 16, 16, 3), 51, np.uint8)  # 0.2
    masks = np.zeros((4, 16, 16), np.uint8)
    masks[:, :4], masks[:, 12:] = 1, 2  # two objects of 64 pixels of 256
    masks[3, 12:] = 0  # in the last image one
    dataset = Dataset(images=pictures, indices=np.arange(4), source={}, masks=masks)
    task = build([dataset] * 3)
    for p in task.model.decoder.cnn[-1].parameters():
        torch.nn.init.zeros_(p)
    loss, logs = task.loss(task.batch(np.arange(4)), 0)
    assert loss.item() == pytest.approx(0.3**2, rel=1e-5) == logs["mse"].item()
    metrics = task.evaluate()
    assert metrics["val_mse"] == pytest.approx(0.3**2, rel=1e-5)
    assert metrics["foreground_ari"] == pytest.approx((0 + 0 + 0 + 1) / 4)
    assert metrics["mean_iou"] == pytest.approx((3 * 0.25 / 2 + 0.25) / 4)
    final = task.final()
    assert (
        final["test_images"] == 4
        and final["test_images_objects_2"] == 3
        and final["test_images_objects_1"] == 1
    )
    assert final["test_foreground_ari_objects_1"] == 1 and final[
        "test_foreground_ari_objects_2"
    ] == pytest.approx(0)
    assert final["test_mse_slots_5"] == pytest.approx(0.09, rel=1e-5)


def test_evaluation_is_what_the_model_computes(scenes):
    task, config = build(scenes), RUN
    metrics = task.evaluate()
    image, true = to_float(scenes[1].images[:8]), np.array(scenes[1].masks[:8])
    assert set(np.unique(true)) > {0, 1, 2}
    with torch.no_grad():
        initial = slot_noise(task.model.slot_attn, 8, seed=0)
        out = task.model(image, initial)
        assert metrics["val_mse"] == pytest.approx(
            (out.reconstruction - image).square().mean().item(), rel=1e-5
        )
        for prefix, found in {
            "": out.masks.argmax(1).numpy(),
            "attn_": segments(out.attn, 16),
        }.items():
            assert metrics[f"{prefix}foreground_ari"] == pytest.approx(
                np.mean(foreground_ari(true, found)), abs=1e-9
            )
            assert metrics[f"{prefix}mean_iou"] == pytest.approx(
                np.mean(mean_iou(true, found)), abs=1e-9
            )
        cell = task.model.slot_attn.cell(task.model.encoder(image[:2]))
        slots = task.model.slot_attn.initial_slots(slot_noise(task.model.slot_attn, 2, seed=0))
        for n in range(1, config.residual_steps + 1):
            new = cell(slots)[0]
            residual = (new - slots).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)
            assert metrics[f"residual_{n}"] == pytest.approx(residual.mean().item(), rel=1e-4)
            slots = new
        slots = cell(slots)[0]  # IN: three iterations, and one application more
    exact = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda z: cell(z)[0], slots)[b, :, :, b].reshape(
                30, 30
            )
            for b in range(2)
        ]
    )
    assert metrics["spectral_norm"] == pytest.approx(
        torch.linalg.matrix_norm(exact, 2).mean().item(), rel=1e-3
    )


def test_evaluation_leaves_random_states_alone(scenes):
    task = build(scenes)
    task.model.eval()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = task.evaluate()
    task.samples(), task.cell()
    assert torch.equal(before, torch.get_rng_state()) and (numpys == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert first == task.evaluate(), "the same draws at every evaluation"
    assert not any(p.grad is not None for p in task.model.parameters())


def test_final_scores(scenes):
    task = build(scenes)
    final = task.final()
    names = ("mse", "foreground_ari", "mean_iou", "attn_foreground_ari", "attn_mean_iou")
    for name in names:
        assert (
            final[f"test_{name}"]
            == final[f"test_{name}_slots_3"]
            == final[f"test_{name}_iterations_3"]
        ), "which is how it is trained"
        counts = [n for n in (1, 2, 3, 4) if f"test_images_objects_{n}" in final]
        weighted = sum(
            final[f"test_images_objects_{n}"] * final[f"test_{name}_objects_{n}"] for n in counts
        )
        assert weighted / 7 == pytest.approx(final[f"test_{name}"]) and len(counts) > 1
    assert (
        final["test_mse"] != final["test_mse_slots_5"]
        and final["test_mse"] != final["test_mse_iterations_6"]
    )
    true = np.array(scenes[2].masks[:7])
    assert final["grid_mean_iou"] == pytest.approx(
        np.mean(mean_iou(true, grid_segments(true.shape, 3)))
    )
    assert final["random_foreground_ari"] == pytest.approx(
        np.mean(foreground_ari(true, random_segments(true.shape, 3, seed=0)))
    )
    assert all(type(value) is float and math.isfinite(value) for value in final.values())


def test_pictures_without_masks_have_no_scores_of_masks(scenes):
    task = build([replace(split, masks=None) for split in scenes])
    assert "val_mse" in task.evaluate() and not [
        name for name in task.evaluate() | task.final() if "ari" in name or "iou" in name
    ]
    assert "true_masks" not in task.samples() and type(task.evaluate()["val_mse"]) is float


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
    assert outcome["status"] == "finished" and rows["val_mse"].iloc[-1] < 0.7 * before
    assert (
        rows["grad_norm_slot_attention"].gt(0).all()
        and rows["grad_norm_slot_attention"].lt(rows["grad_norm_all"]).all()
    )


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(scenes, choice, tmp_path):
    config = replace(RUN, model=replace(SMALL, variant=choice))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = build(scenes, config)
    train(whole, RUN.training, 0, tmp_path / "whole")
    train(build(scenes, config), replace(RUN.training, steps=2), 0, tmp_path / "parts")
    resumed = build(
        scenes, replace(config, seed=5)
    )  # other weights and random state: both are the checkpoint's again
    train(resumed, RUN.training, 0, tmp_path / "parts")
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (
        tmp_path / "parts/metrics.csv"
    ).read_bytes()
    theirs = resumed.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in whole.model.state_dict().items())
    lr = pd.read_csv(tmp_path / "whole/metrics.csv")["lr"]
    assert lr.tolist() == pytest.approx(
        [1e-3 * min(1, (k + 1) / 3) * 0.5 ** (k / 8) for k in range(4)], rel=1e-4
    )


# ---------------------------------------------------------------- a run


def test_a_run(elsewhere):
    setting = parameters.check("smoke", if_missing="train")
    run = runs.get(RUN, setting)
    assert (
        run.folder.name.startswith("autoencoder-IN-seed0-") and run.summary["status"] == "finished"
    )
    assert {
        "val_mse",
        "foreground_ari",
        "spectral_norm",
        "test_mse",
        "test_mean_iou_slots_5",
        "grid_mean_iou",
    } <= set(run.summary["final"])
    samples = run.samples
    assert samples["image"].shape == samples["reconstruction"].shape == (3, 16, 16, 3) and samples[
        "components"
    ].shape == (3, 3, 16, 16, 3)
    assert (
        samples["masks"].shape == (3, 3, 16, 16)
        and samples["attn"].shape == (3, 64, 3)
        and samples["true_masks"].shape == (3, 16, 16)
    )
    assert all(
        samples[name].dtype == np.uint8
        for name in ("image", "reconstruction", "components", "masks")
    )
    assert np.abs(samples["masks"].astype(int).sum(1) - 255).max() <= 2
    model = SlotAttentionAutoEncoder(SMALL)
    model.load_state_dict(run.weights)
    with torch.no_grad():
        image = to_float(RUN.data.load("test").images[:4])
        pictures = model(image[:3], slot_noise(model.slot_attn, 3, seed=0)).reconstruction
        np.testing.assert_array_equal(
            samples["reconstruction"],
            (pictures.clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy(),
        )
        out = model(image, slot_noise(model.slot_attn, 4, seed=0))
        attention, inputs, slots = run.cell(Iteration(4), Unrolled())
        assert inputs.shape == (4, 64, 6) and slots.shape == (4, 3, 10)
        torch.testing.assert_close(attention(inputs, slots).value, out.slots, rtol=2e-2, atol=2e-2)


def test_clevr_has_no_mirror(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        data,
        "load",
        lambda name, split, size, **settings: seen.update(settings, name=name, size=size),
    )
    AutoencoderRunConfig().data.load("train")
    assert (seen["name"], seen["size"], seen["mirror"], seen["max_objects"]) == (
        "clevr",
        128,
        False,
        6,
    )
    DataConfig().load("train")
    assert (seen["name"], seen["mirror"], seen["max_objects"]) == ("clevr_mirror", True, 10)


def test_the_defaults_are_the_papers():
    """And for ever: what is equal to a default is not in a run's hash."""
    assert AutoencoderConfig() == AutoencoderConfig(
        128, 64, (1, 1, 1, 1), 64, 128, 7, 3, 8, 64, (2, 2, 2, 2, 1), "authors", "IN"
    )
    training = TrainingConfig(500_000, 64, 10_000, None, None, 100, 5_000, 100_000)
    scenes = DataConfig("clevr", 128, 100_000, max_objects=6, crop=True)
    assert AutoencoderRunConfig() == AutoencoderRunConfig(
        AutoencoderConfig(),
        scenes,
        training,
        0,
        4e-4,
        320,
        32,
        21,
        320,
        12,
        (9, 11),
        (1, 2, 5, 7, 11),
        None,
    )
    assert runs.run_id(AutoencoderRunConfig()) == "autoencoder-IN-seed0-7b39778d72"
