"""No test writes into the project's results, figures or data.

All of them are in a temporary folder, and the smoke runs are trained there once: by each process,
where pytest-xdist starts several.
"""

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


@contextmanager
def environment(variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def root(tmp_path_factory):
    """The folder that stands in for the project's own, for the whole session."""
    root = tmp_path_factory.mktemp("paper")
    with environment(places(root) | {"OMP_NUM_THREADS": "1"}):
        torch.set_num_threads(1)
        yield root


@pytest.fixture
def elsewhere(root, tmp_path, monkeypatch):
    """Results of one test's own, under a name as users give; the rendered scenes are shared."""
    folder = tmp_path / "résultats de l'été 2"
    folder.mkdir()
    for name, path in places(folder, root / "data").items():
        monkeypatch.setenv(name, path)
    return folder


@pytest.fixture
def committed(monkeypatch):
    """The parameters of the results that the repository has, to be read and not trained."""
    monkeypatch.setenv("PAPER_RESULTS", str(runs.ROOT / "results"))
    return parameters.check("cpu")


@pytest.fixture(scope="session")
def smoke(root):
    """The smoke profile's runs, trained: given (its parameters), dvae, vanilla, IN, complexity."""
    with environment(places(root)):  # also where a test's own is set already
        given = parameters.check("smoke", if_missing="train")
        pair = runs.get_all(figures.vanilla_and_implicit(given), given)
        return SimpleNamespace(
            given=given,
            dvae=runs.get(profiles.slate(given, "IN", 0).dvae, given),
            vanilla=pair["vanilla"][0],
            IN=pair["IN"][0],
            complexity=runs.get(profiles.complexity(given), given),
        )


@pytest.fixture(scope="session")
def process():
    """process(function, *arguments) starts a real process, to be killed or to compete.

    Torch is imported once for all of them, and what DistributedDataParallel imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["paper_lib.runs", "torch._dynamo", "faults.races"])
    started = []

    def start(function, *arguments):
        given = (dict(os.environ), function, *arguments)
        started.append(context.Process(target=_in_process, args=given))
        started[-1].start()
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.join()


def _in_process(variables, function, *arguments):
    os.environ.update(variables)
    torch.set_num_threads(1)
    function(*arguments)
