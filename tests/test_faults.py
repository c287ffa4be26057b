"""A sample of the faults that `make faults` tries: see `faults`."""

import numpy as np
import pytest
from faults import disk, hostile, inputs, kills, places, races, rot
from faults.fault import Tally

from paper_lib.data.readers import clevr_with_masks


def survived(faults):
    tally = Tally().meet(faults)
    assert not tally.failures, "\n".join(tally.failures[:3])
    return tally


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---- rotten files ----

OWN_FILES = [rot.checkpoint_files, rot.cache_files, rot.config_files]
OWN_FILES += [rot.scene_files, rot.notebook_files, rot.count_files]


@pytest.mark.parametrize("which", ["dvae", "IN"])
def test_rotten_files_of_a_run(smoke, rng, which):
    other = {"dvae": smoke.IN, "IN": smoke.vanilla}[which]
    tally = survived(rot.faults(rot.run_files(getattr(smoke, which), other), rng, cuts=4, flips=4))
    assert set(tally.counts) >= {"a run's metrics.csv", "a run's weights.safetensors"}


@pytest.mark.parametrize("made", OWN_FILES)
def test_rotten_files_of_our_own(tmp_path, rng, made):
    assert survived(rot.faults(made(tmp_path / "made"), rng, cuts=5, flips=20)).total() >= 30


@pytest.mark.parametrize("made", [rot.layout_files, rot.tfrecord_files, rot.state_files])
def test_rotten_files_of_the_authors(tmp_path, rng, made, monkeypatch):
    monkeypatch.setattr(clevr_with_masks, "RECORDS", 12)
    assert survived(rot.faults(made(tmp_path / "made"), rng, cuts=2, flips=3)).total() >= 8


# ---- hostile files ----


def test_hostile_files_of_a_run(smoke, tmp_path):
    assert survived(hostile.run_faults(smoke.IN, tmp_path)).total() >= 100


@pytest.mark.parametrize(
    "made", [hostile.data_faults, hostile.layout_faults, hostile.record_faults]
)
def test_hostile_files_of_data(tmp_path, made, monkeypatch):
    monkeypatch.setattr(clevr_with_masks, "RECORDS", 12)
    assert survived(made(tmp_path / "made")).total() >= 7


# ---- a full disk ----


def test_a_full_disk(tmp_path):
    assert survived(disk.faults(tmp_path)).total() == 35


# ---- places ----


def test_a_folder_that_vanishes(process, tmp_path, rng):
    cases = (("dVAE", "results/smoke/runs"),)
    survived(places.vanishing(tmp_path / places.ODD, rng, process, cases, times=1))


@pytest.mark.skipif(not places.namespaces(), reason="no disk of one's own can be had here")
def test_a_disk_that_fills_up_while_a_run_trains(process, tmp_path):
    survived(places.full(tmp_path / places.ODD, process, room=(1.0,)))


# ---- senseless input ----


@pytest.mark.parametrize("which", ["parameters", "commands"])
def test_senseless_input(elsewhere, which, capsys):
    assert inputs.run(60, which) >= 60


# ---- races ----


def test_races(process, tmp_path):
    assert survived(races.faults(tmp_path, process, ("dVAE",), batches=False)).total() == 7


# ---- kills (those of rendering, SLATE and the dVAE are in test_data and test_resuming) ----


@pytest.mark.parametrize("work", ["autoencoder", "set prediction", "writing of results"])
def test_a_kill(process, tmp_path, rng, work):
    survived(kills.faults([work], 1, rng, tmp_path, process))
