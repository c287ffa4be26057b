"""The documentation's examples run, from top to bottom."""

import json
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


def prose():
    """Everything with links: README, the pages of docs/, and the notebooks' text."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        yield path, path.read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path, "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def anchors(text):
    """The names under which a page's headings can be linked to."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_internal_links_lead_somewhere():
    for page, text in prose():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            if anchor:
                found = page if not target else page.parent / target
                assert anchor in anchors(found.read_text()), f"{page.name}: {target}#{anchor}"
