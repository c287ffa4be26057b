# Runs what is missing: runs, then notebooks. `make figures` calls it through paper_lib/batch.py; by itself:
#
#     snakemake --cores 2 --config profile=quick only= device=cpu
#
# What a run or a notebook needs is data in paper_lib/experiments.py.

from pathlib import Path

from paper_lib.paper import experiments, plots
from paper_lib import runs

PROFILE = config.get("profile", "quick")
DEVICE = config.get("device", "cpu")
SETTING = experiments.setting(PROFILE)  # without the device: a login node has none, and every job looks for itself
ONLY = [name for name in str(config.get("only", "")).split(",") if name] or list(experiments.NOTEBOOKS)
RUNS = str(runs.results_root() / PROFILE / "runs")
EXECUTED = str(runs.results_root() / PROFILE / "notebooks")
CONFIGS = {runs.run_id(c): c for name in ONLY for c in experiments.runs_of(name, SETTING)}
TIMED = [run_id for run_id, c in CONFIGS.items() if c.kind == "complexity"]


def folder(config):
    return f"{RUNS}/{runs.run_id(config)}"


def needed_by_run(wildcards):
    """The runs that it builds on. `ancient`: once they are there, their dates decide nothing (a clone gives every file a new one)."""
    return [ancient(f"{folder(c)}/summary.json") for c in experiments.needs(CONFIGS[wildcards.run_id])]


def needed_by_notebook(wildcards):
    return [f"{folder(c)}/summary.json" for c in experiments.runs_of(wildcards.notebook, SETTING)]


rule all:
    input:
        # the runs, too: by itself Snakemake does not miss a deleted run as long as the notebook that shows it is there
        expand(f"{RUNS}/{{run_id}}/summary.json", run_id=CONFIGS),
        expand(f"{EXECUTED}/{{notebook}}.ipynb", notebook=ONLY),


rule run:
    input:
        needed_by_run,
    output:
        RUNS + "/{run_id}/summary.json",
    wildcard_constraints:
        run_id="|".join(run_id for run_id in CONFIGS if run_id not in TIMED) or "none",
    shell:
        "OMP_NUM_THREADS=1 python -m paper_lib.runs {PROFILE} {wildcards.run_id} --device {DEVICE}"


use rule run as timing with:
    wildcard_constraints:
        run_id="|".join(TIMED) or "none",
    threads: 10**6  # what is timed has the machine to itself


rule notebook:
    input:
        runs=needed_by_notebook,
        notebook="notebooks/{notebook}.ipynb",
        library=[str(path) for path in Path("paper_lib").rglob("*.py")],  # a changed plot is drawn again; a run is never trained again for it
    output:
        EXECUTED + "/{notebook}.ipynb",
    shell:
        "OMP_NUM_THREADS=1 papermill {input.notebook} {output} --log-level WARNING --no-progress-bar"
        " -p profile {PROFILE} -p device {DEVICE} -p if_missing train 2> >(grep -v IPKernelApp >&2)"  # the kernel warns that it talks over TCP
