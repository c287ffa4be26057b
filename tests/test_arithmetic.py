"""The numbers that training computes are those that `ARITHMETIC` stands for.

A change that trains the same config to other numbers is a change of arithmetic, and results of
before must not pass for those of after. Where it is meant: raise `ARITHMETIC`, and store the new
numbers with

    python tests/test_arithmetic.py
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from paper_lib.data import Dataset
from paper_lib.models import DVAE
from paper_lib.paper import locatello, parameters, profiles
from paper_lib.training.autoencoder import AutoencoderTask
from paper_lib.training.config import ARITHMETIC
from paper_lib.training.dvae import DVAETask
from paper_lib.training.loop import train
from paper_lib.training.set_prediction import SetPredictionTask
from paper_lib.training.slate import SLATETask

STORED = Path(__file__).parent / "data/arithmetic.json"
SMOKE = parameters.check("smoke")
RUNS = ["dvae", "vanilla", "IN", "BB", "IN with all tricks", "IN, joint", "autoencoder", "sets"]
LOSSES = {"dvae": "mse", "autoencoder": "mse", "sets": "loss"}  # of SLATE the cross entropy
# processors differ in the last digits, which training multiplies
TOLERANCE = 1e-4


def config_of(name):
    if name == "dvae":
        return profiles.slate(SMOKE, "IN", 0).dvae
    if name == "autoencoder":
        return locatello.autoencoder(SMOKE, "IN", 0)
    if name == "sets":
        return locatello.set_prediction(SMOKE, "IN", 0)
    if name == "IN with all tricks":
        return profiles.with_tricks(SMOKE, "IN", 0)
    if name == "IN, joint":
        return replace(profiles.slate(SMOKE, "IN", 0), dvae=None)
    return profiles.slate(SMOKE, name, 0)


def pictures(seed):
    """Noise, so that no renderer has a say."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (12, 16, 16, 3), np.uint8)
    properties = random.integers(0, 2, (12, 3, 19)).astype(np.float32)
    return Dataset(images, np.arange(12), {}, properties=properties)


def losses(name, folder):
    """Train a few steps on noise; return the loss of each."""
    config = config_of(name)
    splits = {split: pictures(k) for k, split in enumerate(["train", "validation", "test"])}
    torch.manual_seed(0)
    weights = DVAE(16).state_dict()
    torch.manual_seed(0)
    if name == "dvae":
        task = DVAETask(config, splits["train"], splits["validation"])
    elif name == "autoencoder":
        task = AutoencoderTask(config, **splits)
    elif name == "sets":
        task = SetPredictionTask(config, **splits)
    else:
        task = SLATETask(config, **splits, dvae_weights=weights if config.dvae else None)
    train(task, replace(config.training, log_every=1, eval_every=2), 0, folder)
    rows = pd.read_csv(folder / "metrics.csv")
    return rows[LOSSES.get(name, "cross_entropy")].tolist()


def test_the_stored_numbers_are_of_this_codes_arithmetic():
    assert json.loads(STORED.read_text())["arithmetic"] == ARITHMETIC, "store them again"


@pytest.mark.parametrize("name", RUNS)
def test_arithmetic(tmp_path, name):
    stored = json.loads(STORED.read_text())["losses"][name]
    found = losses(name, tmp_path)
    assert len(found) == 6
    assert found == pytest.approx(stored, rel=TOLERANCE), (
        f"{name} trains to other numbers: raise ARITHMETIC if this change is meant"
    )


def store():
    torch.set_num_threads(1)
    found = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = losses(name, Path(folder))
    STORED.write_text(json.dumps({"arithmetic": ARITHMETIC, "losses": found}, indent=1) + "\n")


if __name__ == "__main__":
    store()
