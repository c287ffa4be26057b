"""The reading site, for Sphinx: `make site` builds it into site/, which asks no other host.

The source folder is the repository itself, so that a link that works there works here. Pages are
README.md, docs/*.md, the stored notebooks, which are not run, and a reference that is made from the
docstrings.
"""

import csv
import json
import os
import re
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from paper_lib.paper import figures  # noqa: E402

project = "Object Representations as Fixed Points"
html_title = project
root_doc = "docs/index"
include_patterns = ["README.md", "docs/*.md", "docs/api/*.rst", "notebooks/*.ipynb"]
exclude_patterns = ["**/.ipynb_checkpoints", "docs/api/modules.rst"]
extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]

# ---- pages ----

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_code_prompt_show = "Code"
nb_code_prompt_hide = "Code"
nb_ipywidgets_js = {}  # a stored widget has no kernel to talk to

# ---- the reference ----

apidoc_modules = [
    {
        "path": str(ROOT / "paper_lib"),
        "destination": "docs/api",
        "exclude_patterns": ["**/__main__.py"],
        "module_first": True,
    }
]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False

# ---- looks ----

html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
templates_path = ["templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/explore.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_favicon = "favicon.svg"
html_show_sourcelink = html_copy_source = html_show_copyright = False
html_show_search_summary = False  # it would have to read pages, which a browser refuses from disk

# Pages that need nothing else, such as explore.html, lie at the top of the site, beside a page
# that leads home.
STANDALONE = sorted(str(path) for path in (ROOT / "docs").glob("*.html"))
html_extra_path = ["index.html", *STANDALONE]
html_context = {"standalone": [Path(path).name for path in STANDALONE]}

# MathJax 3 comes from a package, in one file that draws formulas as SVG and needs no fonts.
MATHJAX = distribution("sphinx-mathjax-offline").locate_file(
    "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
)
html_static_path.append(str(MATHJAX))
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

# ---- the order of the pages ----

# A newcomer's: pages under a heading. What docs/ has beyond them comes with the first.
READING = {
    "Start": ["claims", "walk", "metrics", "data"],
    "Use": [
        "Commands and scope <../README>",
        "../notebooks/explore_slots",
        "../notebooks/diagnose_slots",
        "practice",
        "models",
        "To add a solver, a model ... <extending>",
    ],
    "Evidence": ["protocol", "log", "reliability"],
}


def notebooks():
    """Return the names of the notebooks in the order of `figures.NOTEBOOKS`, any other last."""
    order = list(figures.NOTEBOOKS)
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def contents():
    """Return the tables of contents that the home page carries, unseen, for the sidebar."""
    placed = {re.sub(r".*<|>", "", page) for pages in READING.values() for page in pages}
    others = {path.stem for path in (ROOT / "docs").glob("*.md")} - placed - {"index"}
    shown = [f"../notebooks/{name}" for name in notebooks()]
    groups = {
        "Start": [*READING["Start"], *sorted(others)],
        "Figures and tables": [page for page in shown if page not in placed],
        "Use": READING["Use"],
        "Evidence": READING["Evidence"],
        "Reference": ["api/paper_lib"],
    }
    return "\n".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in groups.items()
    )


def read(app, name, source):
    """Complete a page as it is read: what the repository's readers do not need to see there."""
    if name.startswith("notebooks/"):
        notebook = json.loads(source[0])
        complete(notebook, Path(name).name)
        source[0] = json.dumps(notebook)
    elif name.startswith("docs/api/"):
        source[0] = tidy(source[0])
    else:
        source[0] = followed(source[0], (ROOT / name).parent)
        source[0] = source[0].replace("<!-- the tables of claims -->", claims())
        if name == root_doc:
            source[0] += contents()


def complete(notebook, name):
    """Fold a notebook's code, and put the paper's statement beside it, from the README's table."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
    box = {"cell_type": "markdown", "id": "statement", "metadata": {}, "source": statement(name)}
    notebook["cells"].insert(1, box)


def statement(name):
    """Return the paper's statement as a box, and where its verdict stands.

    A row of the README's table has the notebook, its place in the paper, and what it asks.
    """
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith(f"| [`{name}`](notebooks/{name}.ipynb)"):
            _, place, claim = [cell.strip() for cell in line.strip("|").split("|")]
            paper = f"In the paper: {place}" if place else "Beyond the paper"
            return f":::{{admonition}} {paper}\n{claim}\n:::\n"
    return ""


def followed(text, folder):
    """Let links to modules lead to the reference and those to pages that stand alone to the top
    of the site, and turn those to folders, which are no pages, into their words."""

    def link(match):
        target = (folder / match[2]).resolve()
        if target.is_dir():
            return match[1]
        if str(target) in STANDALONE:
            return f'<a href="{os.path.relpath(ROOT / target.name, folder)}">{match[1]}</a>'
        if target.suffix == ".py" and target.is_relative_to(ROOT / "paper_lib"):
            name = target.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
            return f"{{py:mod}}`{match[1]} <{name.replace('/', '.')}>`"
        return match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#:]+)\)", link, text)


def tidy(text):
    """Shorten the reference's headings. A package is described; its modules show what it has."""
    text = re.sub(r"^(Submodules|Subpackages)\n-+\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^paper\S*\.(\S+) module$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^(\S+) package$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r" +:(show-inheritance|undoc-members):\n", "", text)
    return re.sub(r"(automodule:: .*\n)( +:.*\n)+", r"\1", text, count=1)


# ---- claims ----


def claims():
    """Return the committed tables of claims: the verdicts, then each with what it rests on."""
    glance = [["", "the claim", "seeds", "verdict", "where"]]
    sections = []
    for name in notebooks():
        path = ROOT / f"results/cpu/tables/{name}_claims.csv"
        if not path.exists():
            continue
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        title = title_of(name)
        link = f"[{title.partition(':')[0]}](../notebooks/{name}.ipynb)"
        for row in rows:
            seeds = row.get("seeds", "")
            glance.append([row[""], row["the claim"], seeds, row["verdict"], link])
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        sections += [f"## {title}", f"In the notebook of {link}.", markdown_table(table)]
    return "\n\n".join([markdown_table(glance), *sections])


def title_of(name):
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
    return "".join(cells[0]["source"]).partition("\n")[0].strip("# ")


def markdown_table(rows):
    head, *rows = rows
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ---- docstrings ----


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text. Prose becomes paragraphs in which formulas keep their asterisks;
    what is aligned or indented stays as it is written."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = "\n\n".join(map(as_rst, filter(None, blocks))).split("\n")


def as_rst(block):
    if block.startswith(">>> "):
        return block
    if re.search(r"^ |\S {2,}\S", block, re.MULTILINE):
        return ".. code-block:: text\n\n" + "\n".join("    " + line for line in block.splitlines())
    words = re.split(r"`([^`]+)`", block)  # what is in backticks is every second
    words[::2] = [re.sub(r"([*_|\\])", r"\\\1", word) for word in words[::2]]
    words[1::2] = [f"``{word}``\\ " for word in words[1::2]]
    return "".join(words)


def keep_inside(app):
    """Let MyST-NB's pictures pass through the folder of Sphinx's own, not one beside the site."""
    inside = Path(app.doctreedir) / "jupyter_execute"
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=str(inside))


def setup(app):
    app.connect("builder-inited", keep_inside, priority=900)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", plain)
