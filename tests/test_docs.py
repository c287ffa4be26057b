"""The documentation's examples run, from top to bottom."""

import re

import matplotlib.pyplot as plt
import pytest

from paper_lib import data
from paper_lib.models import VARIANTS
from paper_lib.paper import figures
from paper_lib.runs import ROOT


def examples(name):
    """The Python blocks of a page, as one program whose line numbers are the page's."""
    lines, inside = [], False
    for line in (ROOT / "docs" / name).read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["extending.md"])
def test_examples_run(name, elsewhere, monkeypatch):
    for registry in (VARIANTS, data.DATASETS, figures.NOTEBOOKS):
        for key in registry:  # what the examples add is taken out again
            monkeypatch.setitem(registry, key, registry[key])
    before = [dict(registry) for registry in (VARIANTS, data.DATASETS, figures.NOTEBOOKS)]
    try:
        # dataclasses look their module up, so the examples get one
        namespace = {"__name__": "__main__"}
        exec(compile(examples(name), str(ROOT / "docs" / name), "exec"), namespace)
    finally:
        for registry, content in zip((VARIANTS, data.DATASETS, figures.NOTEBOOKS), before):
            registry.clear()
            registry.update(content)
        plt.close("all")
    assert (elsewhere / "figures/smoke/fig99_slots.png").exists()
    assert namespace["judged"].verdict == "inconclusive", "one seed decides nothing"


def test_internal_links_lead_somewhere():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
