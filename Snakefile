# Performs what is missing: runs, then notebooks. `make figures` calls it through
# paper_lib/paper/batch.py; by itself:
#
#     snakemake --cores 2 --config profile=quick only= device=cpu
#
# What a notebook shows is data in paper_lib/paper/figures.py.

from paper_lib.paper import figures, parameters
from paper_lib.runs import ROOT, results_root, run_id

PROFILE = config.get("profile", "quick")
DEVICE = config.get("device", "cpu")
# checked without the device: a login node has none, and every job looks for itself
GIVEN = parameters.check(PROFILE)
ONLY = [name for name in str(config.get("only", "")).split(",") if name] or list(figures.NOTEBOOKS)
RUNS = str(results_root() / PROFILE / "runs")
EXECUTED = str(results_root() / PROFILE / "notebooks")
MADE = [name for name in ONLY if figures.profile_shown(name, PROFILE) == PROFILE]
CONFIGS = {run_id(c): c for name in MADE for c in figures.runs_of(name, GIVEN)}
# A job takes the place of its shell, and ends with Snakemake, even if that is killed.
FOLLOWING = "OMP_NUM_THREADS=1 exec python -m paper_lib.system.following $PPID"
ALONE = [name for name, c in CONFIGS.items() if c.alone]


def summary(config):
    return f"{RUNS}/{run_id(config)}/summary.json"


def needed_by_run(wildcards):
    """The runs that it builds on. `ancient`: once they are there, their dates decide nothing (a
    clone gives every file a new one)."""
    return [ancient(summary(c)) for c in CONFIGS[wildcards.run_id].needs()]


def needed_by_notebook(wildcards):
    if wildcards.notebook not in MADE:  # replayed
        return []
    return [summary(c) for c in figures.runs_of(wildcards.notebook, GIVEN)]


rule all:
    input:
        # the runs, too: by itself Snakemake does not miss a deleted run as long as the notebook
        # that shows it is there
        expand(f"{RUNS}/{{run_id}}/summary.json", run_id=CONFIGS),
        expand(f"{EXECUTED}/{{notebook}}.ipynb", notebook=ONLY),


rule run:
    input:
        needed_by_run,
    output:
        # `update`: Snakemake deletes no run that another process has finished meanwhile
        update(RUNS + "/{run_id}/summary.json"),
    wildcard_constraints:
        run_id="|".join(name for name in CONFIGS if name not in ALONE) or "none",
    shell:
        FOLLOWING + " paper_lib.runs {PROFILE} {wildcards.run_id} --device {DEVICE}"


use rule run as timing with:
    wildcard_constraints:
        run_id="|".join(ALONE) or "none",
    threads: 10**6  # what is timed has the machine to itself


rule notebook:
    input:
        runs=needed_by_notebook,
        notebook=f"{ROOT}/notebooks/{{notebook}}.ipynb",
        # a changed plot is drawn again; a run is never trained again for it
        library=[str(path) for path in (ROOT / "paper_lib").rglob("*.py")],
    output:
        EXECUTED + "/{notebook}.ipynb",
    shell:
        FOLLOWING + " paper_lib.paper.execute {PROFILE} {wildcards.notebook} {output:q}"
        " --device {DEVICE}"
        " 2> >(grep -v IPKernelApp >&2)"  # the kernel warns that it talks over TCP
