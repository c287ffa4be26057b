"""What is wrong with a model's slots, by its own numbers: `print(diagnose_slots(model, images))`.

It looks at masks, tokens, fixed points and gradients, and needs no true masks. `SIGNS` is the list
of what it can find, each with the threshold, the reason for it, and what helps.
"""

from __future__ import annotations

import copy
import textwrap
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paper_lib.explore import masks
from paper_lib.fixed_point import Iteration, Neumann, Unrolled
from paper_lib.models import SLATE, SetPredictor, SlotAttentionAutoEncoder
from paper_lib.paper.equilibria import CONVERGED, fixed_points, refinement
from paper_lib.training.dvae import code_usage
from paper_lib.training.slots import slot_noise
from paper_lib.training.task import to_float

LINE = 80  # characters of a line that is printed

Model = SLATE | SlotAttentionAutoEncoder | SetPredictor


@dataclass(frozen=True)
class Sign:
    """Something that can be wrong.

    name           in a word or two
    measure        the entry of `Diagnosis.measured` that shows it
    above, below   it is there if the measure lies beyond this
    said           how the number is said, with {value} and {limit}
    helps          what to do about it
    """

    name: str
    measure: str
    said: str
    helps: str
    above: float = np.inf
    below: float = -np.inf

    def is_in(self, measured: dict[str, float]) -> bool:
        """Whether these numbers show it. What was not measured, or is nan, shows nothing."""
        value = measured.get(self.measure, np.nan)
        return bool(value > self.above or value < self.below)

    def words(self, measured: dict[str, float]) -> str:
        """Return what was found and what helps, in lines."""
        limit = self.above if np.isfinite(self.above) else self.below
        said = self.said.format(value=measured[self.measure], limit=limit)
        found = f"{self.name}: {said}"
        helps = f"    what helps: {self.helps}"
        lines = [textwrap.fill(text, LINE, subsequent_indent="    ") for text in (found, helps)]
        return "\n".join(lines)


# In the order in which one brings about the next: what comes first is to be mended first.
SIGNS = (
    # Collapsed dVAEs in this project used one to three codes, all others dozens.
    Sign(
        "collapsed dVAE",
        "perplexity",
        "its tokens are worth {value:.3g} equally frequent codes, fewer than {limit:g}",
        "train the dVAE first and freeze it, at a higher learning rate and temperature: at 3e-4 "
        "and 1 to 0.1 small ones collapsed, at 3e-3 and 2 to 0.5 they did not",
        below=4.0,
    ),
    # As a run asks of the dVAE that it is built on (`DVAERunConfig.max_mse_fraction`).
    Sign(
        "poor dVAE",
        "dvae_error",
        "what it decodes has {value:.2g} of the mean picture's error, more than {limit:g}",
        "train it longer, or with more codes: the slots can hold no more than its tokens do",
        above=0.5,
    ),
    # Below this two sets of slots count as the same (`equilibria.SAME`).
    Sign(
        "slots that start alike",
        "initial_spread",
        "initial slots differ by {value:.2g} of their length, less than {limit:g}",
        "draw noise for each slot and not for each image, and keep its scale, slot_log_sigma, from "
        "vanishing: the cell treats slots alike, so what starts the same stays the same",
        below=1e-3,
    ),
    # Two slots then share more than half of what either holds. Cells that have not been trained
    # lie near 0.6, trained ones that tell objects apart below 0.2.
    Sign(
        "identical masks",
        "overlap",
        "the masks of two slots overlap by {value:.2f} of their union, more than {limit:g}",
        "see that slots start apart and that tokens differ; then train on, as masks start out like "
        "this. The autoencoder has init='apart' for it",
        above=0.5,
    ),
    # A tenth of the variance is little beside the half and more of cells whose slots hold objects;
    # it is 0 for a cell that does not see the picture.
    Sign(
        "masks of the place alone",
        "share_of_image",
        "{value:.2f} of the masks' variance comes from the picture, less than {limit:g}; the rest "
        "is the same in every picture",
        "see that tokens reach slot attention and differ between pictures (the dVAE's codes, the "
        "scale of their embeddings beside that of the positions), and train on",
        below=0.1,
    ),
    # More slots than objects leave some over; not most of them.
    Sign(
        "dead slots",
        "idle_slots",
        "{value:.2f} of the slots hold less than a tenth of an equal share, more than {limit:g}",
        "fewer slots, or slots that start further apart",
        above=0.5,
    ),
    # An equal share would be one over the number of slots.
    Sign(
        "one slot holds everything",
        "largest_slot",
        "the largest slot holds {value:.2f} of the picture, more than {limit:g}",
        "init='apart' (see AutoencoderConfig), a longer training, a smaller slot",
        above=0.9,
    ),
    # Then an implicit gradient is, for most pictures, taken where it is not defined.
    Sign(
        "no fixed point",
        "converge",
        "the iteration settles from {value:.2f} of the starts, fewer than {limit:g}",
        "Anderson or Broyden as solver, or another seed; a one-step gradient needs no fixed point, "
        "an exact implicit one does",
        below=0.5,
    ),
    # The cell treats slots alike: two that have become the same never part again.
    Sign(
        "twin slots",
        "collapsed",
        "at {value:.2f} of the fixed points two slots are the same, more than {limit:g}",
        "no more iterations than in training, and fewer slots; no gradient has been found to "
        "prevent it",
        above=0.5,
    ),
    # At a fixed point that attracts, what goes back through more steps adds little to the last.
    Sign(
        "gradients that grow",
        "gradient_growth",
        "back through all iterations the gradient is {value:.3g} times that of one step, more than "
        "{limit:g}",
        "the one-step gradient, Neumann(1), which does not grow with the iterations; or clipping",
        above=10.0,
    ),
)

# What is measured, as `print` says it.
WORDS = {
    "perplexity": "perplexity of the dVAE's tokens",
    "codes_used": "codes in use",
    "dvae_error": "the dVAE's error, as a share of the mean picture's",
    "initial_spread": "spread of the initial slots, as a share of their length",
    "overlap": "overlap of two slots' masks",
    "entropy": "entropy of the masks, 1 if all slots share alike",
    "idle_slots": "share of slots that hold next to nothing",
    "largest_slot": "share of the picture that the largest slot holds",
    "share_of_image": "share of the masks' variance that comes from the picture",
    "restarted": "overlap with the masks from other initial slots",
    "exchanged": "overlap with the masks of another picture",
    "residual": "residual after as many applications as in training",
    "converge": "share of starts that settle in a fixed point",
    "fixed points": "distinct fixed points a picture",
    "collapsed": "share of them in which two slots are the same",
    "gradient_one_step": "gradient norm, one step",
    "gradient_unrolled": "gradient norm, unrolled",
    "gradient_growth": "unrolled / one step",
}


@dataclass(frozen=True)
class Diagnosis:
    """What was measured, and what is wrong. `print` shows both.

    measured    numbers by name, the keys of `WORDS`, means over pictures and starts; nan where
                there is no such number
    residuals   (steps,), the mean relative residual at each step of the plain iteration
    masks       (B, N, K), those from the first start
    """

    measured: dict[str, float]
    residuals: np.ndarray
    masks: np.ndarray

    @property
    def found(self) -> list[Sign]:
        """The signs that the numbers show, the first to be mended first."""
        return [sign for sign in SIGNS if sign.is_in(self.measured)]

    def __str__(self) -> str:
        said = [sign.words(self.measured) for sign in self.found] or ["nothing wrong is found"]
        numbers = [
            f"{value:10.3g}  {WORDS[name]}"
            for name, value in self.measured.items()
            if not np.isnan(value)
        ]
        return "\n".join([*said, "", *numbers])


def diagnose_slots(
    model: Model, images: np.ndarray, starts: int = 4, seed: int = 0, max_steps: int = 300
) -> Diagnosis:
    """Say what is wrong with the slots of a trained model.

    images      (B, H, W, 3) uint8, at least two, of the size that the model takes
    starts      initial slots for each image, at least two; all images get the same ones
    max_steps   iterations after which slots that still move have no fixed point

    The masks are the decoder's for an autoencoder, else slot attention's. A set predictor has no
    loss without targets, and so no gradients here. All in float64, on the model's device. Raises
    ValueError for fewer images or starts.
    """
    if len(images) < 2 or starts < 2:
        raise ValueError(
            f"at least two images and two starts are compared, not {len(images)} and {starts}"
        )
    model = copy.deepcopy(model).double().eval()
    encoder = model.slot_attn
    device = encoder.slot_mu.device
    image = to_float(images).double().to(device)
    noise = slot_noise(encoder, starts, seed).double()
    with torch.no_grad():
        embedded = _embedded(model, image)
        attn = np.stack([_masks(model, embedded, start) for start in noise])
        settled, residuals = _iterated(encoder, embedded, noise, max_steps)
        measured = _dvae(model, image) if isinstance(model, SLATE) else {}
        measured["initial_spread"] = _spread(encoder.initial_slots(noise))
    measured |= _of_masks(attn)
    applied = encoder.slot_attention.solver.max_steps
    measured["residual"] = float(residuals[min(applied, len(residuals)) - 1])
    measured |= settled
    measured |= _gradients(model, image, embedded, noise[0], applied)
    return Diagnosis(measured, residuals, attn[0])


def _of_masks(attn: np.ndarray) -> dict[str, float]:
    """Measure masks (starts, B, N, K)."""
    each = {
        name: np.mean([getattr(masks, name)(of_start).mean() for of_start in attn])
        for name in ("overlap", "entropy", "idle_slots", "largest_slot")
    }
    shares = [masks.share_of_image(of_start) for of_start in attn]
    others = [masks.agreement(a, np.roll(a, 1, axis=0)) for a in attn]
    restarted = [masks.agreement(a, b) for a, b in zip(attn, np.roll(attn, 1, axis=0))]
    each["share_of_image"] = np.mean(shares)
    each |= {"restarted": np.mean(restarted), "exchanged": np.mean(others)}
    return {name: float(value) for name, value in each.items()}


def _dvae(model: SLATE, image: Tensor) -> dict[str, float]:
    """Measure which tokens the dVAE uses for images, and what it decodes of them."""
    tokens = model.tokenize(image)
    usage = code_usage(tokens, model.config.vocab_size)
    error = (image - model.decode_tokens(tokens)).square().mean()
    of_mean = (image - image.mean(0)).square().mean()
    return {
        "perplexity": usage["perplexity"],
        "codes_used": float(usage["codes_used"]),
        "dvae_error": (error / of_mean).item(),
    }


def _spread(slots: Tensor) -> float:
    """Return how far slots (S, K, D) lie from their mean over K, relative to their length."""
    apart = (slots - slots.mean(1, keepdim=True)).square().sum(-1).mean()
    return (apart / slots.square().sum(-1).mean()).sqrt().item()


def _iterated(
    encoder, embedded: Tensor, noise: Tensor, max_steps: int
) -> tuple[dict[str, float], np.ndarray]:
    """Iterate on every image from all noise (S, K, D): what fixed points there are, means over the
    images, and the mean residual at every step."""
    rows, residuals = [], np.zeros(max_steps)
    for one in embedded.split(1):
        step = refinement(encoder.slot_attention, encoder.inputs(one), len(noise))
        result = Iteration(max_steps, CONVERGED).solve(step, encoder.initial_slots(noise))
        rows.append(fixed_points(result.value.cpu(), result.converged.cpu()))
        of_steps = result.residuals.mean(1).cpu().numpy()
        residuals += np.pad(of_steps, (0, max_steps - len(of_steps)), mode="edge") / len(embedded)
    found = {}
    for name in ("converge", "fixed points", "collapsed"):
        values = [row[name] for row in rows if name in row]
        found[name] = float(np.mean(values)) if values else np.nan
    return found, residuals


def _gradients(
    model: Model, image: Tensor, embedded: Tensor, start: Tensor, steps: int
) -> dict[str, float]:
    """Measure the gradient of the model's loss with respect to its cell's weights."""
    if isinstance(model, SetPredictor):
        return {}
    attention = model.slot_attn.slot_attention
    attention.solver = Iteration(steps)
    norms = {}
    for name, adjoint in {"one_step": Neumann(), "unrolled": Unrolled()}.items():
        attention.adjoint = adjoint
        out = model.slot_attn(embedded, start.expand(len(image), -1, -1))
        parameters = list(attention.parameters())
        gradients = torch.autograd.grad(_loss(model, image, out.slots), parameters)
        norms[name] = torch.cat([g.flatten() for g in gradients]).norm().item()
    growth = norms["unrolled"] / norms["one_step"] if norms["one_step"] else np.nan
    named = {f"gradient_{name}": norm for name, norm in norms.items()}
    return named | {"gradient_growth": growth}


# ---- what the kinds of models differ in ----


def _embedded(model: Model, image: Tensor) -> Tensor:
    """Return what slot attention's encoder is given for images (B, 3, H, W): (B, N, D)."""
    if isinstance(model, SLATE):
        return model.embed(model.tokenize(image))[:, 1:]
    return model.encoder(image)


def _masks(model: Model, embedded: Tensor, start: Tensor) -> np.ndarray:
    """Return the masks (B, N, K) from the same noise (K, D) for all images."""
    out = model.slot_attn(embedded, start.expand(len(embedded), -1, -1))
    if isinstance(model, SlotAttentionAutoEncoder):
        return model.decode(out.slots)[2].flatten(2).mT.cpu().numpy()
    return out.attn.cpu().numpy()


def _loss(model: Model, image: Tensor, slots: Tensor) -> Tensor:
    """Return the loss of training: cross entropy of the tokens, or the squared error."""
    if isinstance(model, SLATE):
        return model.cross_entropy(model.tokenize(image), slots).mean()
    return (image - model.decode(slots)[0]).square().mean()
