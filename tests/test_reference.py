"""Against what the authors' SLATE and DEQ codes computed on fixed inputs (tests/reference).

Numbers agree to 1e-4 relative in float32, tokens exactly.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from paper_lib.fixed_point import (
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    fixed_point,
    relative_residual,
    spectral_norm,
    spectral_radius,
)
from paper_lib.models import SLATE, SLATEConfig

REFERENCE = Path(__file__).parent / "reference"


def load(name):
    with np.load(REFERENCE / f"{name}_reference.npz") as archive:
        return {
            k: torch.from_numpy(v) if v.dtype.kind in "fib" and v.ndim else v
            for k, v in archive.items()
        }


slate, broyden = load("slate"), load("broyden")
state = {k.removeprefix("state/"): v for k, v in slate.items() if k.startswith("state/")}
sizes = dict(zip(slate["config_names"].tolist(), slate["config"].tolist()))


def model(variant="vanilla", **changes):
    config = SLATEConfig(
        **{**sizes, "slot_size": sizes["d_model"], "dropout": 0.0, "variant": variant, **changes}
    )
    return SLATE.from_official(state, config).eval()


def close(ours, theirs, rtol=1e-4):
    """Within `rtol` of the reference's largest magnitude.

    Single entries near zero have no relative precision of their own.
    """
    theirs = torch.as_tensor(theirs).to(ours.dtype)
    error = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)
    assert error < rtol, f"relative error {error:.2e}"


def test_dvae():
    slate_model = model()
    close(slate_model.dvae.log_probs(slate["image"]), slate["encoder_log_probs"])
    close(
        slate_model.dvae.decoder(
            (slate["encoder_log_probs"] / float(slate["soft_tau"])).softmax(1)
        ),
        slate["decoded_soft"],
    )
    tokens = slate_model.tokenize(slate["image"])
    assert torch.equal(tokens, slate["tokens"].flatten(1))
    image = slate_model.decode_tokens(tokens)
    close(image, slate["decoded_hard"])
    close((image - slate["image"]).square().sum((1, 2, 3)), slate["mse_sum_per_image"])


def test_slots_cross_entropy_and_generation():
    slate_model, tokens = model(), slate["tokens"].flatten(1)
    out = slate_model.infer_slots(tokens, slate["slot_noise"])
    close(out.slots, slate["slots"])
    close(out.attn, slate["attn"])
    close(slate_model.cross_entropy(tokens, out.slots), slate["cross_entropy"])
    close(slate_model.autoencode(tokens, slate["slot_noise"])[0], slate["cross_entropy"])
    generated = slate_model.generate_tokens(out.slots)
    assert torch.equal(generated, slate["generated_tokens"])
    close(slate_model.decode_tokens(generated), slate["generated_image"])


@pytest.mark.parametrize("variant, name", [("vanilla", "unrolled"), ("IN", "one_step")])
def test_gradients_of_slot_attention(variant, name):
    slate_model = model(variant)
    slots = slate_model.infer_slots(slate["tokens"].flatten(1), slate["slot_noise"]).slots
    close(slots, slate[f"{name}/slots"])
    (slots * slate["grad_target"]).sum().backward()
    gradients = {
        k.removeprefix(f"{name}/grad/"): v
        for k, v in slate.items()
        if k.startswith(f"{name}/grad/")
    }
    assert len(gradients) == 25
    for key, theirs in gradients.items():
        ours = slate_model.slot_attn.get_parameter(key).grad
        if key.startswith("slot_") and "." not in key and variant == "IN":
            assert ours is None and theirs.abs().max() == 0, "nothing flows to the initial guess"
        elif key == "slot_attention.norm_slots.bias":
            # a shift of the normalised slots leaves the softmax over slots as it is: zero but for
            # rounding
            assert ours.abs().max() < 1e-5 and theirs.abs().max() < 1e-5
        else:
            close(ours, theirs)


def test_spectral_norm_and_radius_of_the_cell():
    slate_model, tokens = model(), slate["tokens"].flatten(1)
    with torch.no_grad():
        slots = slate_model.infer_slots(tokens, slate["slot_noise"]).slots
        cell = slate_model.slot_attn.cell(slate_model.embed(tokens)[:, 1:])
    cell_slots = lambda z: cell(z)[0]  # noqa: E731
    close(spectral_norm(cell_slots, slots), slate["jacobian_spectral_norm"])
    close(spectral_radius(cell_slots, slots), slate["jacobian_spectral_radius"])


def test_residuals_of_the_iteration():
    rows = len(slate["iteration_relative_residual"])
    solution = (
        model(num_iterations=rows)
        .infer_slots(slate["tokens"].flatten(1), slate["slot_noise"])
        .solution
    )
    close(solution.residuals, slate["iteration_relative_residual"])


def broyden_map(calls=None, dtype=torch.float32):
    W, b, x = (broyden[k].to(dtype) for k in ("W", "b", "x"))

    def f(z):
        fz = torch.tanh(z.flatten(1) @ W.T + b + x).view_as(z)
        if calls is not None:
            calls.append((z, fz))
        return fz

    return f


@pytest.mark.parametrize("steps", [7, 30])
def test_broyden_follows_deq(steps):
    calls = []
    solution = fixed_point(
        broyden_map(calls), broyden["z0"], solver=Broyden(steps, tol=1e-6), adjoint=Neumann()
    )
    # DEQ's residual is the whole batch's, at the iterates after the initial guess; the last
    # application is the gradient's
    trace = torch.stack([(fz - z).norm() / fz.norm() for z, fz in calls[1:-1]])
    theirs = broyden[f"threshold_{steps}/rel_trace"]
    # further on rounding decides, and samples of ours that have converged no longer move
    compared = min(len(trace), 20)
    np.testing.assert_allclose(trace[:compared], theirs[:compared], rtol=2e-3)
    close(calls[-1][0], broyden[f"threshold_{steps}/result"])
    assert solution.residuals.shape == (len(calls) - 2, len(broyden["z0"]))
    assert solution.converged.all() == (steps == 30)


@pytest.mark.parametrize("steps", [7, 30])
def test_broyden_by_the_norm_of_the_batch_is_deq(steps):
    """The whole trace, the step at which DEQ stops, and the iterate that it keeps."""
    result = Broyden(steps, tol=1e-6, norm="batch").solve(broyden_map(), broyden["z0"])
    taken = int(broyden[f"threshold_{steps}/lowest_step"])
    theirs = broyden[f"threshold_{steps}/rel_trace"]
    assert (theirs[taken:] == theirs[taken - 1]).all(), "DEQ repeats its lowest from there on"
    assert (result.steps == taken).all() and (result.converged == (steps == 30)).all()
    assert (result.residuals == result.residuals[:, :1]).all()
    np.testing.assert_allclose(result.residuals[:, 0], theirs[:taken], rtol=1e-2)
    np.testing.assert_allclose(result.residuals[:20, 0], theirs[: min(taken, 20)], rtol=1e-3)
    close(result.value, broyden[f"threshold_{steps}/result"], rtol=1e-6)


def test_implicit_cotangent():
    f = broyden_map(dtype=torch.float64)
    star = fixed_point(f, broyden["z0"].double(), solver=Iteration(500), adjoint=Neumann()).value
    close(star, broyden["plain_iteration_converges_to"])
    assert relative_residual(star, f(star)).max() < 1e-12
    shift = torch.zeros_like(
        star, requires_grad=True
    )  # d f(z) + shift / d shift is the identity: its gradient is the adjoint's u
    value = fixed_point(
        lambda z: f(z) + shift, star, solver=Iteration(1), adjoint=Implicit(Broyden(60, tol=1e-12))
    ).value
    value.backward(broyden["cotangent"].double())
    close(shift.grad, broyden["implicit_cotangent"], rtol=1e-5)
