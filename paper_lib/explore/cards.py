"""A card for each model that is offered, from its run's config and summary: docs/models.md.

python -m paper_lib.explore.cards      write it anew
"""

from __future__ import annotations

from paper_lib import data
from paper_lib.explore import trained
from paper_lib.paper import figures, parameters, results, styles
from paper_lib.paper.captions import caption
from paper_lib.paper.parameters import Parameters
from paper_lib.runs import ROOT, RunResult, get, run_id
from paper_lib.system.files import whole
from paper_lib.training.run import TrainingRun

PAGE = ROOT / "docs" / "models.md"
# What each kind of model is, and what can be done with it.
KINDS = {
    "slate": (
        "SLATE (Singh et al. 2021): a dVAE's tokens, slots, and a transformer that writes the "
        "tokens from the slots",
        "take scenes apart into slots, regenerate and recombine them, look at slot attention's "
        "fixed points",
    ),
    "autoencoder": (
        "the autoencoder of Locatello et al. (2020): each slot draws a picture and a mask",
        "segment scenes without supervision, compare masks",
    ),
    "set_prediction": (
        "the set predictor of Locatello et al. (2020): each slot is read as one object's "
        "properties",
        "predict objects' properties, compare gradients on a task with supervision",
    ),
}
# Final metrics that a card shows, by kind; those that a run lacks are left out.
METRICS = {
    "slate": {
        "val_cross_entropy": "validation cross entropy, nats an image",
        "test_mse": "squared error of test images regenerated from slots, summed over an image",
        "test_mse_dvae": "the same of the dVAE alone",
        "foreground_ari": "FG-ARI of the masks on test images",
        "mean_iou": "mIoU of the masks",
        "grid_foreground_ari": "FG-ARI of a grid, which knows nothing of the image",
    },
    "autoencoder": {
        "val_mse": "validation error, a mean over pixels and channels",
        "test_foreground_ari": "FG-ARI of the decoder's masks on test images",
        "test_mean_iou": "mIoU of the decoder's masks",
        "grid_foreground_ari": "FG-ARI of a grid, which knows nothing of the image",
    },
    "set_prediction": {
        "val_loss": "validation loss",
        "test_ap_inf": "average precision on test images, at any distance",
        "test_ap_1": "average precision within a distance of 1",
        "test_ap_0.5": "average precision within a distance of 0.5",
    },
}

HEAD = """# Models that come with their weights

A card for each model of `trained.offered()`, written by `python -m paper_lib.explore.cards` from
the configs and summaries of the runs that trained them. In a program:

```python
from paper_lib.explore import trained

model = trained.load("clevr_mirror-implicit")
```

Weights are float32, in safetensors files, which cannot execute code.
`python -m paper_lib.explore.trained` scores each model again beside what its run recorded, and
[`diagnose_slots`](../notebooks/diagnose_slots.ipynb) looks for faults in it.
"""
LIMITS = (
    "Small and trained for short, on generated scenes alone; one seed of a comparison, and no "
    "model to rely on. It knows no photographs. A slot need not hold one object"
)


def page(given: Parameters) -> str:
    """Return the page of all cards as Markdown."""
    cards = [card(name, config, given) for name, config in trained.offered(given).items()]
    return "\n".join([HEAD, *cards])


def card(name: str, config: TrainingRun, given: Parameters) -> str:
    """Return the card of one model as Markdown: a heading and a table."""
    run = get(config, given)
    what, use = KINDS[config.kind]
    rows = {
        "model": what,
        "method": f"{styles.name(config.method)}, {config.model.num_iterations} iterations",
        "sizes": _sizes(config, run),
        "data": _data(config),
        "training": _training(config, run),
        "scale": caption(given, config),
        "seed": f"{config.seed}",
        "run": f"`{run_id(config)}`, commit `{run.summary['commit'][:10]}`",
        **{words: f"{value:.4g}" for words, value in _metrics(config, run, given).items()},
        "intended use": use,
        "limits": LIMITS,
        "licence": f"weights: MIT; data: {_licence(config)} ([all licences](data.md))",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"## `{name}`\n\n| | |\n|---|---|\n{table}\n"


def _sizes(config: TrainingRun, run: RunResult) -> str:
    count = sum(tensor.numel() for tensor in run.weights.values())
    size = (run.folder / "weights.safetensors").stat().st_size
    slots = f"{config.model.num_slots} slots of {config.model.slot_size} features"
    images = f"images of {config.data.size}x{config.data.size}"
    return f"{count / 1e6:.2f} million weights, {size / 1e6:.1f} MB; {slots}; {images}"


def _data(config: TrainingRun) -> str:
    d = config.data
    source = "generated here" if d.door == "generator" else "the authors' files"
    return (
        f"`{d.name}`, {source}, version {config.data.version}: {d.num_scenes:,} scenes with "
        f"{d.min_objects} to {d.max_objects} objects, 70% of them to train on, 15% to validate and "
        f"15% to test; view: {d.view}"
    )


def _training(config: TrainingRun, run: RunResult) -> str:
    t, summary = config.training, run.summary
    return (
        f"{summary['step']:,} steps of {t.batch_size} images, learning rate {t.lr:g}, "
        f"{t.precision}; {summary['seconds'] / 60:.0f} minutes on one thread of an "
        f"{summary['device']}, torch {summary['versions']['torch']}"
    )


def _metrics(config: TrainingRun, run: RunResult, given: Parameters) -> dict[str, float]:
    """Return a run's scores by their words: its own, and of a SLATE those of its test images
    regenerated, where that has been done."""
    final = dict(run.summary["final"])
    for scored in figures.flagship(given).get(config.method, []):
        if scored.slate == config:
            regenerated = get(scored, given)
            means = results.means([regenerated], ["foreground_ari", "mean_iou"])
            final |= regenerated.summary["final"] | means.iloc[0].to_dict()
    known = METRICS[config.kind]
    return {words: final[name] for name, words in known.items() if name in final}


def _licence(config: TrainingRun) -> str:
    generated = config.data.door == "generator"
    return data.DATASETS[config.data.name].licence if generated else "the authors'"


def main() -> None:
    with whole(PAGE) as temporary:
        temporary.write_text(page(parameters.check("cpu")))
    print(PAGE)


if __name__ == "__main__":
    main()
