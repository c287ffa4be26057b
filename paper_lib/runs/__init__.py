"""The engine: what a run is (`identity`), where its results live (`store`), and getting one,
performed where it is missing (`perform`). It knows no figure, and no kind of run by name.

    python -m paper_lib.runs cpu                  the profile's runs and their state
    python -m paper_lib.runs cpu RUN_ID           perform it, or go on with it
    python -m paper_lib.runs cpu RUN_ID --show    its full config
    python -m paper_lib.runs cpu --checksums      give runs from before checksums theirs

    torchrun --nproc-per-node 4 -m paper_lib.runs paper RUN_ID --device cuda      on four GPUs
"""

from paper_lib.runs.identity import described, identity, run_id
from paper_lib.runs.perform import RunConfig, get, get_all, with_needs
from paper_lib.runs.store import ROOT, MissingRun, RunResult, folder_of, results_root

__all__ = [
    "ROOT",
    "MissingRun",
    "RunConfig",
    "RunResult",
    "described",
    "folder_of",
    "get",
    "get_all",
    "identity",
    "results_root",
    "run_id",
    "with_needs",
]
