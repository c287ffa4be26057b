"""Where a run's results live: run it, resume it, or load it.

A run is a config. Its results are in results/<profile>/runs/<run id>/: config.json, metrics.csv, summary.json, samples.npz, weights.safetensors
(and cell.safetensors, the slot attention of a model that has one); while it trains, checkpoint.safetensors instead of the last ones. The run id ends in a
hash of what the config says beyond the defaults, and of the data's version: figures that ask for the same run share it, and a new config field with a default
leaves finished runs where they are. (So a default, once there are results, is for ever: a new value is a new field or an explicit setting.)

    python -m paper_lib.runs cpu                  the profile's runs and their state
    python -m paper_lib.runs cpu RUN_ID           run it, or resume it

    torchrun --nproc-per-node 4 -m paper_lib.runs paper RUN_ID --device cuda          the same on four GPUs: see `training.parallel`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from paper_lib.models import SlotAttention
from paper_lib.paper import complexity, experiments, regeneration
from paper_lib.system.files import whole, write_json
from paper_lib.system.machine import processor
from paper_lib.training import parallel
from paper_lib.training.autoencoder import AutoencoderTask
from paper_lib.training.bfloat16 import is_emulated
from paper_lib.training.checkpoint import load_tensors, model_weights, save_tensors
from paper_lib.training.config import DataConfig
from paper_lib.training.dvae import DVAETask
from paper_lib.training.loop import train
from paper_lib.training.set_prediction import SetPredictionTask
from paper_lib.training.slate import SLATETask

TASKS = {
    "dvae": DVAETask,
    "slate": SLATETask,
    "autoencoder": AutoencoderTask,
    "set_prediction": SetPredictionTask,
}  # by the kind of a run that trains
ROOT = Path(__file__).resolve().parents[2]


def results_root() -> Path:
    """results/ in the project, or where the environment variable PAPER_RESULTS says."""
    return Path(os.environ.get("PAPER_RESULTS", ROOT / "results"))


class MissingRun(FileNotFoundError):
    """A run has no results, and nobody asked to train it."""


@dataclass(frozen=True)
class Run:
    """A finished run. summary: status ("finished" or "diverged"), final metrics, cost, provenance; metrics: one row every `log_every` steps."""

    config: object
    folder: Path
    summary: dict

    @property
    def metrics(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "metrics.csv")

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """The run's pictures, by name; none for a run that diverged before its first evaluation."""
        if not (self.folder / "samples.npz").exists():
            return {}
        with np.load(self.folder / "samples.npz", allow_pickle=False) as archive:
            return dict(archive)

    def cell(
        self, solver, adjoint, dtype: torch.dtype = torch.float32
    ) -> tuple[SlotAttention, torch.Tensor, torch.Tensor]:
        """A run's trained slot attention under any solver and adjoint, with inputs (4, N, D) and initial slots (4, K, D) of four test images."""
        model = self.config.model
        tensors = {
            name: value.to(dtype)
            for name, value in load_tensors(self.folder / "cell.safetensors")[0].items()
        }
        inputs, slots = tensors.pop("inputs"), tensors.pop("slots")
        heads = getattr(model, "num_slot_heads", 1)  # Locatello et al.'s models have one
        attention = SlotAttention(
            inputs.shape[-1], model.slot_size, model.mlp_hidden_size, solver, adjoint, heads
        )
        attention.to(dtype).load_state_dict(
            {name.removeprefix("weights/"): value for name, value in tensors.items()}
        )
        return attention, inputs, slots

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights. Small runs' are committed only for dVAEs; elsewhere the run has to be trained here."""
        path = self.folder / "weights.safetensors"
        if not path.exists():
            raise MissingRun(
                f"{path} is not there: weights of this run are not committed. Delete {self.folder} and train it again to get them."
            )
        return load_tensors(path)[0]


# ---- identity ----


def identity(config) -> dict:
    """What of a config differs from the defaults, with the kind of run and its data's version: what its hash is taken of."""
    content = {"kind": config.kind} if hasattr(config, "kind") else {}
    if isinstance(config, DataConfig):
        content["version"] = config.version
    for f in fields(config):
        value = getattr(config, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if is_dataclass(value):
            inner = identity(value)
            if inner or default is None:
                content[f.name] = inner
        elif value != default:
            content[f.name] = value
    return content


def run_id(config) -> str:
    """Such as slate-IN-seed0-1f2e3d4c5b: for people to read, and the hash of `identity` to be unique."""
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:10]
    names = [
        config.kind,
        config.model.variant if hasattr(config, "model") else None,
        f"seed{config.seed}",
        digest,
    ]
    return "-".join(name for name in names if name)


# ---- run, resume or load ----


def get(config, setting: experiments.Setting) -> Run:
    """The run's results: loaded, or, with `if_missing="train"`, trained first, from its checkpoint if it was killed.

    A second process that wants the same run waits for the first. Processes that torchrun started train it together: the first of them decides, locks and
    writes. Raises MissingRun with the remedy where nobody asked to train.
    """
    folder = results_root() / setting.profile / "runs" / run_id(config)
    missing = lambda: not (folder / "summary.json").exists()  # noqa: E731
    if parallel.of_first(missing):
        if setting.if_missing == "error":
            raise MissingRun(
                f"run {folder.name} of profile {setting.profile!r} has no results in {folder}"
                f"{' (it was started and not finished)' if folder.exists() else ''}. Get it with `python -m paper_lib.runs {setting.profile} {folder.name}` "
                f'if it is one of the profile\'s own, or set if_missing = "train" here.'
            )
        with _locked(folder):
            if parallel.of_first(missing):  # the process before us may have finished it
                parallel.of_first(
                    lambda: write_json(
                        folder / "config.json",
                        {"id": folder.name, "identity": identity(config), **asdict(config)},
                    )
                )
                with (
                    torch.random.fork_rng(range(torch.cuda.device_count())),
                    _one_thread(setting.device),
                ):
                    summary = _perform(config, folder, setting)
                parallel.of_first(lambda: _finish(folder, summary))
    return Run(config, folder, json.loads((folder / "summary.json").read_text()))


def _locked(folder: Path):
    """The lock of a run, which one process of those that train it together holds; the others wait for its first word."""
    if not parallel.is_first():
        return nullcontext()
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.lock")


def _finish(folder: Path, summary: dict) -> None:
    write_json(folder / "summary.json", summary)
    for left in (
        folder / "checkpoint.safetensors",
        *folder.glob(".*"),
    ):  # with a point: files that a killed process was writing
        left.unlink(missing_ok=True)


def get_all(groups: dict[str, list], setting: experiments.Setting) -> dict[str, list[Run]]:
    """`get` for every run of a figure: name -> runs, in the order of the seeds."""
    return {name: [get(config, setting) for config in configs] for name, configs in groups.items()}


def _perform(config, folder: Path, setting: experiments.Setting) -> dict:
    provenance = _provenance(
        config, setting.device
    )  # at the start: this is the code that runs, whatever is edited meanwhile
    if config.kind == "complexity":
        parallel.of_first(
            lambda: _write_table(complexity.measure(config, setting.device), folder, "%.6g")
        )
        return {"status": "finished", "final": {}, **provenance}
    if config.kind == "regeneration":
        run = get(config.slate, setting)
        final = parallel.of_first(lambda: _regenerate(config, run, folder, setting.device))
        return {"status": run.summary["status"], "final": final, **provenance}

    given = {}
    if config.kind == "slate" and config.dvae is not None:
        run = get(config.dvae, setting)
        if faults := config.dvae.faults(run.summary["final"]):
            raise RuntimeError(
                f"dVAE {run.folder.name} fails its check, and nothing that is built on it would mean anything: {'; '.join(faults)}."
            )
        given["dvae_weights"] = run.weights
    splits = parallel.first_goes_first(
        lambda: {name: config.data.load(name) for name in ("train", "validation", "test")}
    )
    torch.manual_seed(config.seed)
    task = TASKS[config.kind](config, **splits, **given)
    outcome = train(
        task, config.training, config.seed, folder, setting.device, description=folder.name
    )
    final = parallel.of_first(lambda: _keep(task, folder))
    cost = {"peak_memory_bytes": complexity.peak_memory(setting.device)}  # of the first process
    if parallel.world_size() > 1:
        cost["world_size"] = parallel.world_size()
    return {**outcome, **cost, "final": final, "data": splits["train"].source, **provenance}


def _keep(task, folder: Path) -> dict:
    """What is kept of a training: pictures, the cell, the weights; and its last metrics, with those on test images."""
    checkpoint = folder / "checkpoint.safetensors"
    if not checkpoint.exists():  # a run that diverged before its first evaluation has none
        return {}
    task.model.load_state_dict(
        model_weights(checkpoint)
    )  # where a run diverged, pictures are of the last weights that were whole
    task.model.eval()
    final = pd.read_csv(folder / "metrics.csv").ffill().iloc[-1].to_dict() | (
        task.final() if hasattr(task, "final") else {}
    )
    with whole(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **task.samples())
    if hasattr(task, "cell"):
        save_tensors(folder / "cell.safetensors", task.cell())
    save_tensors(folder / "weights.safetensors", task.model.state_dict())
    return final


def _regenerate(config, run: Run, folder: Path, device: str) -> dict:
    shown = bool(
        run.summary["final"]
    )  # a run that diverged before its first evaluation has nothing to show
    scores, final = (
        regeneration.measure(config, run.weights, device)
        if shown
        else (pd.DataFrame(columns=["image", "mse", "mse_dvae"]), {})
    )
    _write_table(scores, folder, "%.5g")
    return final


def _write_table(table: pd.DataFrame, folder: Path, float_format: str) -> None:
    with whole(folder / "metrics.csv") as temporary:
        table.to_csv(temporary, index=False, float_format=float_format)


def _provenance(config, device: str) -> dict:
    emulated = hasattr(config, "training") and is_emulated(config.training.precision, device)
    return {
        "seed": config.seed,
        "device": torch.cuda.get_device_name(device)
        if torch.device(device).type == "cuda"
        else processor(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "mitsuba")},
        },
        "commit": _commit(),
        **({"bfloat16": "emulated: products in float32, rounded"} if emulated else {}),
    }


def _commit() -> str:
    """The commit whose code ran; with "+" where the code was changed since."""
    git = lambda *words: subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True
    )  # noqa: E731
    try:
        head = git("rev-parse", "HEAD")
    except OSError:  # no git on this machine
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + (
        "+" if git("status", "--porcelain", "--", "paper_lib").stdout.strip() else ""
    )


class _one_thread:
    """A run on a CPU uses one thread, whatever the machine: the same sums in the same order, and as many runs side by side as there are cores."""

    def __init__(self, device: str):
        self.before = torch.get_num_threads()
        self.during = 1 if torch.device(device).type == "cpu" else self.before

    def __enter__(self):
        torch.set_num_threads(self.during)

    def __exit__(self, *_):
        torch.set_num_threads(self.before)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.runs", description="Run, resume or list the runs of a profile."
    )
    parser.add_argument("profile", choices=experiments.PROFILES)
    parser.add_argument(
        "run_ids",
        nargs="*",
        metavar="RUN_ID",
        help="run these; without any, list the profile's runs",
    )
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    with parallel.processes(given.device) as device:
        _run(parser, given, device)


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace, device: str) -> None:
    setting = experiments.setting(given.profile, device=device, if_missing="train")
    known = {
        run_id(config): config
        for notebook in experiments.NOTEBOOKS
        for config in experiments.runs_of(notebook, setting)
    }
    if unknown := [name for name in given.run_ids if name not in known]:
        parser.error(
            f"profile {given.profile!r} has no run {unknown[0]!r}; its runs are: {', '.join(known)}"
        )
    if not given.run_ids and parallel.is_first():
        for name in known:
            summary = results_root() / given.profile / "runs" / name / "summary.json"
            print(
                f"{name:40}",
                json.loads(summary.read_text())["status"] if summary.exists() else "missing",
            )
    for name in given.run_ids:
        run = get(known[name], setting)
        if parallel.is_first():
            print(f"{name}: {run.summary['status']}", file=sys.stderr)


if __name__ == "__main__":
    main()
