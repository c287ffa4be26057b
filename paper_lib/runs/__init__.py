from paper_lib.runs.engine import *  # noqa: F403
from paper_lib.runs.engine import (
    ROOT,
    MissingRun,
    Run,
    get,
    get_all,
    identity,
    results_root,
    run_id,
)  # noqa: F401
