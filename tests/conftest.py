"""No test writes into the project's results, figures or data: all of them are in a temporary folder, and the smoke runs are trained there once."""

import multiprocessing
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from paper_lib import runs
from paper_lib.paper import figures, parameters, profiles


def places(root, data=None):
    """Environment variables that put everything under `root`."""
    variables = {
        "PAPER_RESULTS": root / "results",
        "PAPER_TABLES": root / "results",
        "PAPER_FIGURES": root / "figures",
        "PAPER_DATA": data or root / "data",
    }
    return {name: str(path) for name, path in variables.items()}


@pytest.fixture(scope="session", autouse=True)
def root(tmp_path_factory):
    """The folder that stands in for the project's own, for the whole session."""
    root = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        for name, path in places(root).items():
            patch.setenv(name, path)
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield root


@pytest.fixture
def elsewhere(root, tmp_path, monkeypatch):
    """Results of one test's own; the rendered scenes are shared."""
    for name, path in places(tmp_path, root / "data").items():
        monkeypatch.setenv(name, path)
    return tmp_path


@pytest.fixture(scope="session")
def smoke(root):
    """The smoke profile's runs, trained: setting, dvae, vanilla, IN, complexity."""
    with settled(root):
        setting = parameters.check("smoke", if_missing="train")
        found = runs.get_all(figures.vanilla_and_implicit(setting), setting)
        measured = runs.get(profiles.complexity(setting), setting)
        return SimpleNamespace(
            setting=setting,
            dvae=runs.get(profiles.dvae(setting), setting),
            vanilla=found["vanilla"][0],
            IN=found["IN"][0],
            complexity=measured,
        )


@contextmanager
def settled(root):
    """The session's folder, also where a test's own is set already."""
    with pytest.MonkeyPatch.context() as patch:
        for name, path in places(root).items():
            patch.setenv(name, path)
        yield


@pytest.fixture(scope="session")
def process():
    """process(function, *arguments) starts a real process (to be killed, or to compete); torch is imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["paper_lib.runs", "torch._dynamo"]
    )  # which DistributedDataParallel imports
    started = []

    def start(function, *arguments):
        started.append(
            context.Process(target=_in_process, args=(dict(os.environ), function, *arguments))
        )
        started[-1].start()
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.join()


def _in_process(environment, function, *arguments):
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)
