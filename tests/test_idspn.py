"""iDSPN: the encoder of sets, the descent as a map whose fixed point is found, and its runs."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from paper_lib import runs
from paper_lib.fixed_point import (
    Anderson,
    Checkpointed,
    Implicit,
    Iteration,
    Neumann,
    Phantom,
    StraightThrough,
    Truncated,
    Unrolled,
    jacobian,
    spectral_norm,
)
from paper_lib.models import IDSPN, IDSPNConfig
from paper_lib.models.idspn import SetDescent, SetEncoder, clipped
from paper_lib.paper import locatello, parameters
from paper_lib.training.config import ARITHMETIC, DataConfig, TrainingConfig
from paper_lib.training.idspn import IDSPNRunConfig, IDSPNTask
from paper_lib.training.loop import train
from paper_lib.training.set_prediction import scores, targets
from paper_lib.training.slots import slot_noise
from paper_lib.training.task import to_float

f64 = torch.float64
SMALL = IDSPNConfig(
    image_size=16,
    channels=6,
    strides=(1, 2),
    hidden_size=14,
    code_size=11,
    num_slots=5,
    num_iterations=4,
)
RUN = IDSPNRunConfig(
    model=SMALL,
    data=DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    training=TrainingConfig(
        lr=1e-3,
        steps=4,
        batch_size=4,
        warmup_steps=0,
        clip=None,
        lr_decay_epochs=None,
        log_every=1,
        eval_every=2,
        arithmetic=ARITHMETIC,
    ),
    eval_images=8,
    jacobian_images=2,
    residual_steps=3,
    test_images=7,
    sample_images=3,
    test_iterations=(4, 8),
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def set_encoder():
    torch.manual_seed(0)
    built = SetEncoder(3, 14, 11, 5)
    with torch.no_grad():  # biases start at zero
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return built.double()


def descent(solver=None, adjoint=None, **settings):
    return SetDescent(set_encoder(), solver or Iteration(4), adjoint or Unrolled(), **settings)


# ---- the encoder of sets ----


def test_codes_of_sets_line_by_line():
    """The features of the elements, sorted by themselves, against the weights."""
    m, sets = set_encoder(), drawn(2, 5, 3)
    first, _, second = m.mlp
    features = (sets @ first.weight.T + first.bias).clamp_min(0) @ second.weight.T + second.bias
    expected = (features.sort(1).values * m.weight).sum(1)
    torch.testing.assert_close(m(sets), expected)
    shuffled = sets[:, torch.tensor([3, 1, 4, 0, 2])]
    torch.testing.assert_close(m(shuffled), m(sets))
    energy = (m(sets) - drawn(2, 11, seed=1)).square().mean(1) / 2
    torch.testing.assert_close(m.energy(sets, drawn(2, 11, seed=1)), energy)


def test_the_gradient_of_the_energy_is_autograds():
    """Of any order: with respect to the sets, and its own with respect to everything."""
    m, sets, codes = set_encoder(), drawn(2, 5, 3).requires_grad_(), drawn(2, 11, seed=1)
    codes.requires_grad_()
    energy = m.energy(sets, codes).sum()
    (expected,) = torch.autograd.grad(energy, sets, create_graph=True)
    ours = m.energy_gradient(sets, codes)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-14)
    weights = drawn(2, 5, 3, seed=2)
    leaves = [sets, codes, *m.parameters()]
    for one, two in zip(
        torch.autograd.grad((ours * weights).sum(), leaves, allow_unused=True),
        torch.autograd.grad((expected * weights).sum(), leaves, allow_unused=True),
        strict=True,
    ):
        one, two = (torch.zeros(()) if g is None else g for g in (one, two))
        torch.testing.assert_close(one, two.to(one), rtol=1e-9, atol=1e-13)


def test_the_gradient_parts_equal_elements():
    """Exclusive multiset equivariance: elements that are equal may be sent different ways."""
    m = set_encoder()
    sets = drawn(1, 1, 3).expand(1, 5, 3)
    gradient = m.energy_gradient(sets, drawn(1, 11, seed=1))
    assert torch.pdist(gradient[0]).min() > 1e-4


# ---- the descent ----


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_descent_is_torchs(momentum):
    m, codes, noise = (
        descent(Iteration(6), momentum=momentum, rate=0.3),
        drawn(2, 11),
        drawn(2, 5, 3),
    )
    found, velocity = m(codes, noise).slots.chunk(2, -1)
    sets = (0.1 * noise).requires_grad_()
    optimizer = torch.optim.SGD([sets], lr=0.3, momentum=momentum, nesterov=momentum > 0)
    for _ in range(6):
        optimizer.zero_grad()
        m.set_encoder.energy(sets, codes).sum().backward()
        optimizer.step()
    torch.testing.assert_close(found, sets.detach(), rtol=1e-10, atol=1e-12)
    if momentum:
        kept = optimizer.state[sets]["momentum_buffer"]
        torch.testing.assert_close(velocity, kept, rtol=1e-10, atol=1e-12)


def test_it_descends_to_rest():
    """From near a set with these codes: there the velocity is zero, and so is the gradient."""
    m, true = descent(Iteration(1_000), rate=0.5), drawn(2, 5, 3, seed=4)
    near = true + 0.03 * drawn(2, 5, 3, seed=5)
    with torch.no_grad():
        codes = m.set_encoder(true)
        out = m(codes, 10 * near)  # a tenth of the noise is where it starts
    sets, velocity = out.slots.chunk(2, -1)
    assert (m.set_encoder.energy(sets, codes) < 1e-10).all()
    assert (m.set_encoder.energy(near, codes) > 1e-5).all()
    assert velocity.abs().max() < 1e-5
    assert m.set_encoder.energy_gradient(sets, codes).abs().max() < 1e-5
    assert (out.solution.residuals[-1] < 1e-5).all()


def test_gradients_are_shortened_a_sample_at_a_time():
    gradient = drawn(3, 5, 3) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    short = clipped(gradient, 2.0)
    lengths = short.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths[1:], torch.full((2,), 2.0, dtype=f64))
    assert torch.equal(short[0], gradient[0])
    zero = torch.zeros(1, 5, 3, dtype=f64, requires_grad=True)
    clipped(zero, 2.0).sum().backward()
    assert torch.equal(zero.grad, torch.ones_like(zero))


def test_predictions_are_a_set():
    m, order = descent(), torch.tensor([4, 2, 0, 3, 1])
    one, two = (
        m(drawn(2, 11), noise).slots for noise in (drawn(2, 5, 3), drawn(2, 5, 3)[:, order])
    )
    torch.testing.assert_close(one[:, order], two)


def test_approximate_implicit_differentiation():
    """One term is theirs: dl/dset sent into minus the gradient of the energy, times the step."""
    m, codes, noise = descent(Iteration(4), Neumann()), drawn(2, 11), drawn(2, 5, 3)
    weights = drawn(2, 5, 3, seed=2)
    solution = m(codes, noise).solution
    (solution.value.chunk(2, -1)[0] * weights).sum().backward()
    with torch.no_grad():
        sets, _ = (
            Iteration(4)
            .solve(lambda s: m.cell(codes)(s)[0], m.initial_slots(noise))
            .value.chunk(2, -1)
        )
    energy = m.set_encoder.energy(sets.requires_grad_(), codes).sum()
    (gradient,) = torch.autograd.grad(energy, sets, create_graph=True)
    parameters_ = list(m.parameters())
    theirs = torch.autograd.grad((-gradient * weights).sum(), parameters_, allow_unused=True)
    for p, expected in zip(parameters_, theirs, strict=True):
        if expected is None:  # the last bias reaches the energy's gradient through the codes alone
            expected = torch.zeros_like(p)
        torch.testing.assert_close(p.grad, 1.9 * expected, rtol=1e-8, atol=1e-12)


def test_unrolled_by_finite_differences():
    m, codes, noise = descent(Iteration(4)), drawn(2, 11), drawn(2, 5, 3)

    def f(codes, noise):
        return m(codes, noise).slots

    assert torch.autograd.gradcheck(f, (codes.requires_grad_(), noise.requires_grad_()))


def test_the_jacobian_of_forward_and_backward_derivatives():
    m, codes = descent(), drawn(2, 11)

    def step(state):
        return m.cell(codes)(state)[0]

    state = m(codes, drawn(2, 5, 3)).slots
    norms = spectral_norm(step, state, tol=1e-6)
    dense = torch.linalg.matrix_norm(jacobian(step, state), 2)
    torch.testing.assert_close(norms, dense, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "adjoint",
    [Unrolled(), Checkpointed(), Truncated(2), Phantom(2), StraightThrough(), Neumann(2)],
)
def test_every_adjoint_differentiates_it(adjoint):
    m = descent(Iteration(4), adjoint)
    m(drawn(2, 11), drawn(2, 5, 3)).slots.square().sum().backward()
    assert m.set_encoder.weight.grad.abs().max() > 0
    reference = descent(Iteration(4), Unrolled())
    reference(drawn(2, 11), drawn(2, 5, 3)).slots.square().sum().backward()
    same = torch.allclose(m.set_encoder.weight.grad, reference.set_encoder.weight.grad)
    assert same == isinstance(adjoint, (Unrolled, Checkpointed))


def test_other_solvers_search_it():
    m = descent(Anderson(30, tol=1e-8), Implicit(Anderson(10)), momentum=0.5)
    out = m(drawn(2, 11), drawn(2, 5, 3))
    plain = m(drawn(2, 11), drawn(2, 5, 3), Iteration(30))
    assert (out.solution.residuals.amin(0) < plain.solution.residuals[0]).all()
    out.slots.sum().backward()
    assert m.set_encoder.weight.grad.isfinite().all()


def test_refusals():
    with pytest.raises(ValueError, match="sets have 5 elements, not 6"):
        descent()(drawn(2, 11), drawn(2, 6, 3))
    with pytest.raises(ValueError, match="momentum at least 0 and below 1, not 1.0, 10.0 and 1.0"):
        IDSPNConfig(momentum=1.0)
    with pytest.raises(ValueError, match="num_iterations"):
        IDSPNConfig(num_iterations=0)
    with pytest.raises(ValueError, match="black box"):
        IDSPNConfig(variant="vanilla", solver=Anderson(5))


# ---- the task ----


@pytest.fixture(scope="module")
def scenes(root):
    return [RUN.data.load(name) for name in ("train", "validation", "test")]


def build(scenes, config=RUN):
    torch.manual_seed(config.seed)
    return IDSPNTask(config, *scenes)


def test_evaluation_is_what_the_model_computes(scenes):
    task = build(scenes)
    metrics = task.evaluate()
    image, true = to_float(scenes[1].images[:8]), targets(scenes[1].properties[:8], 5)
    with torch.no_grad():
        out = task.model(image, slot_noise(task.model.descent, 8, seed=0))
    assert out.predictions.shape == (8, 5, 19)
    expected = scores(out.predictions, true)
    assert metrics["val_loss"] == pytest.approx(expected.pop("loss"), rel=1e-5)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert metrics["spectral_norm"] > 0 and {"residual_1", "residual_3"} <= set(metrics)
    final = task.final()
    assert final["test_loss"] == final["test_loss_iterations_4"] != final["test_loss_iterations_8"]


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_few_steps_reduce_the_loss(scenes, choice, tmp_path):
    task = build(scenes, replace(RUN, model=replace(SMALL, variant=choice)))
    before = task.evaluate()["val_loss"]
    training = replace(RUN.training, steps=40, eval_every=40)
    outcome = train(task, training, 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished"
    assert rows["val_loss"].iloc[-1] < 0.9 * before
    assert (rows["grad_norm_set_encoder_max"] > 0).all()


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


# ---- a run ----


def test_a_run(elsewhere):
    run = runs.get(RUN, parameters.check("smoke", if_missing="train"))
    assert run.folder.name.startswith("idspn-IN-seed0-")
    assert run.summary["status"] == "finished" and not run.has_cell
    assert {"val_loss", "ap_inf", "spectral_norm", "test_ap_1"} <= set(run.summary["final"])
    shapes = {"image": (3, 16, 16, 3), "predictions": (3, 5, 19), "targets": (3, 5, 19)}
    assert {name: value.shape for name, value in run.samples.items()} == shapes
    model = IDSPN(SMALL)
    model.load_state_dict(run.weights)
    with torch.no_grad():
        test = RUN.data.load("test")
        noise = slot_noise(model.descent, 3, seed=0)
        out = model(to_float(test.images[:3]), noise)
    np.testing.assert_allclose(run.samples["predictions"], out.predictions, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("profile", ["smoke", "quick", "cpu", "gpu", "paper"])
def test_the_profiles_share_the_slot_predictors_task(profile):
    given = parameters.check(profile)
    ours, theirs = (of(given, "IN", 1) for of in (locatello.idspn, locatello.set_prediction))
    assert ours.data == theirs.data and ours.seed == 1
    for name in ("image_size", "num_slots"):
        assert getattr(ours.model, name) == getattr(theirs.model, name)
    if profile != "paper":
        for name in ("steps", "batch_size", "eval_every"):
            assert getattr(ours.training, name) == getattr(theirs.training, name)
    assert ours.test_slots == ()
    assert runs.run_id(ours) != runs.run_id(theirs)
    assert runs.run_id(ours) != runs.run_id(locatello.idspn(given, "vanilla", 1))
    with pytest.raises(ValueError, match="arithmetic 1"):
        replace(ours, training=replace(ours.training, arithmetic=1)).ensure_performable()
    ours.ensure_performable()


def values(config):
    return {f.name: getattr(config, f.name) for f in fields(config)}


def test_the_defaults_are_for_ever():
    """What is equal to a default is not in a run's hash."""
    assert values(IDSPNConfig()) == {
        "image_size": 128,
        "channels": 64,
        "strides": (2, 2, 2, 2),
        "hidden_size": 512,
        "code_size": 512,
        "num_slots": 10,
        "num_iterations": 40,
        "rate": 1.0,
        "momentum": 0.9,
        "clip": 10.0,
        "variant": "IN",
        "solver": None,
        "adjoint": None,
    }
    own = {"model", "training", "test_slots", "test_iterations"}
    assert values(IDSPNRunConfig()).keys() >= own
    assert IDSPNRunConfig().test_iterations == (10, 20, 80)
    training = IDSPNRunConfig().training
    assert (training.lr, training.batch_size, training.steps) == (1e-3, 128, 54_000)
