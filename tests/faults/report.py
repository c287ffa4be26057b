"""docs/reliability.md, made from what a run of all faults counted."""

from __future__ import annotations

import platform

import torch

from faults.fault import HARMLESS, REFUSED, RESUMED, UNSEEN, Tally
from paper_lib.runs.provenance import commit

HEAD = """# Reliability

Made by `make faults`; do not edit. It breaks things on purpose: files are cut off at {cuts} points,
changed by a bit at {flips}, emptied, exchanged and removed; hostile ones take their places; the
disk is full, its folders vanish, the checkout cannot be written to, has a name that trips shells,
or no network; parameters and arguments make no sense; processes want the same at once, find the
locks of the dead, and a clock that was set back; and they are killed (SIGKILL), {kills} times here,
at random moments of their work and at the files that they put into their places, and started again
(`make faults` kills few of each kind, `make faults KILLS=15` 124). `make test` tries a sample.

**{tried:,} faults tried, {survived:,} survived.** Seed {seed}, {minutes:.0f} minutes;
commit {commit}, Python {python}, torch {torch}.

- *refused*: an error that names the file or the parameter, what is wrong, and what helps
- *resumed*: killed or robbed of its disk, started again, and bit for bit what an undisturbed
  process makes; no process was left of a killed one
- *harmless*: the right result nevertheless, such as with a bit changed in the padding of a header,
  or by a process that was done before it could be killed
- *answered*: senseless input, made up by Hypothesis, that was refused by name or had a right
  result; a command that ends with another status than 0 says why
- *unseen*: another value, where nothing tells: the authors' pictures and lists come without
  checksums, and `data.toml` and a notebook are what somebody writes

"""
TAIL = """
## Mended

What the first runs of this found, and what was done:

- a `metrics.csv` that was cut off was read as if it were whole; a cell, weights, samples or a
  summary that were cut off raised an error of a library that did not name the file. Every finished
  run has a `checksums.json` now (`python -m paper_lib.runs PROFILE --checksums` gives it to runs
  from before), and every reader raises `BrokenFile` with the path and the remedy.
- a changed bit in a checkpoint went into the resumed run; a checkpoint of another run was taken for
  this one's. Tensors have a checksum, and a checkpoint names its run.
- a changed bit in a rendered picture, in its mask or in the mark that says that it is done went
  into training. Each row has a checksum, compared where a data set has at most half a gigabyte.
- a damaged TFRecord file was refused once, and its rows were used at the next call.
- a NaN in a COCO polygon took 17 GB of memory; so would a polygon, run lengths or a picture of any
  size that a few bytes can claim. All are bounded. A number without end in a TFRecord took time
  that grew with the square of its length.
- a file named .png could be of any format that Pillow knows, some of which start other programs.
- a scenario's name could lead out of the folder of ShapeStacks.
- weights and cells could be read by their owner alone, whatever the umask.
- a disk that filled up while rows were written ended the process by a signal, without a word.
- a checkout that cannot be written to, and results in a folder whose name has a space, made
  Snakemake fail.
- overrides of a wrong type, counts of zero and below, devices and seeds that are none ended in an
  error from the depths, some after training had begun.
- a search whose iterates grew until their norm overflowed was reported as converged, in float32.
- a batch that was killed left Snakemake and its jobs at work, which competed with those of the next
  call. Every job follows its parent now, and ends with it.
- a notebook's own parameters (`scenes`, `count`, `door` ...) were not checked; what was too large
  ended in an `IndexError`.
- a run whose folder was removed while it trained was finished without its `config.json`, or, at the
  last moment, without its final metrics. The first is written again, the second is an error.
- an object of CLEVR's scenes could be at a position that is not a number, or is one number for
  three; the scenes that are kept for readers were read as they were, whatever had become of them.
- a checkout that was moved after its set-up had programs that knew the old place, and failed or ran
  what lay there: `make` notices, and sets up anew. `make explore` failed where its folder's name
  had a space.
- jinja2 3.1.0 and mitsuba 3.6 were allowed, and did not work together with the rest; under pandas 2
  a notebook showed a warning of pandas among its results.

## Numbers

Not a number, infinity, maps without a fixed point, maps, solvers and adjoints of a user's own that
are none, batches of none and of one, one slot and one token in float16, bfloat16, float32 and
float64 are tried by Hypothesis for each solver and adjoint in `tests/test_properties.py`, part of
`make test` and not counted above: a value is f(z*), a residual is as said, the order of a batch
changes no value and no gradient, a sample is not moved by its neighbours. A training whose loss or
weights stop being numbers ends as *diverged*, with the last weights that were whole.

## Versions

`make versions PYTHON=python3.12` installs the lowest or the highest versions that
`pyproject.toml` allows, and has them pass a short suite: solvers and gradients, models, training,
runs, and a notebook that renders, trains and draws.

| Python | versions | packages go together | short suite |
|---|---|---|---|
| 3.11.7 | lowest | 194 | passes |
| 3.11.7 | highest | 201 | passes, and all of `make test` runs on them |
| 3.12.1 | highest | 207 | passes |
| 3.13.0 | highest | 200 | passes |
| 3.14 | highest | 200 | not tried, for want of this Python |

For 3.14 there is a wheel of every package but `connection-pool`, which is Python alone, and
`immutables`, which needs a C compiler; Snakemake asks for both.

torch and torchvision are of one version, on which the numbers depend bit for bit.

## What is not seen

- A change of the authors' files that leaves name and size, and that their format does not tell.
- A change of a data set of more than half a gigabyte, or of one that was made before rows had
  checksums, or of a run that has none yet.
- A network's file system as such: locks are tried with and without `flock`.
- A disk and a network of a process's own, and a checkout that root cannot write to, where the
  system gives a user no namespaces (`unshare`): those faults are left out there.
"""


def report(tally: Tally, seed: int, seconds: float) -> str:
    """Return the page."""
    from faults import rot

    outcomes = [REFUSED, RESUMED, HARMLESS, "answered", UNSEEN, "not survived"]
    table = [f"| fault | tried | {' | '.join(outcomes)} |", "|---" * (2 + len(outcomes)) + "|"]
    for kind, counted in tally.counts.items():
        cells = [str(counted[outcome] or "") for outcome in outcomes]
        table.append(f"| {kind} | {sum(counted.values()):,} | {' | '.join(cells)} |")
    head = HEAD.format(
        cuts=rot.CUTS,
        flips=rot.FLIPS,
        tried=tally.total(),
        survived=tally.total() - len(tally.failures),
        seed=seed,
        minutes=seconds / 60,
        kills=sum(sum(n.values()) for kind, n in tally.counts.items() if kind.startswith("kill:")),
        commit=commit()[:12],
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
    )
    return head + "\n".join(table) + "\n" + TAIL
