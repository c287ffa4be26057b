"""The reading site: its sources name what exists; built, its links lead somewhere, and it asks no
other host."""

import csv
import html.parser
import importlib
import re
import subprocess
import sys
from functools import cached_property
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

import pytest

from paper_lib import metrics
from paper_lib.data.generators.photos import PHOTOGRAPHS
from paper_lib.paper import figures
from paper_lib.runs import ROOT

DOCS = ROOT / "docs"
TOOLS = [name for name in ("sphinx", "myst_nb", "furo") if find_spec(name) is None]
needs_tools = pytest.mark.skipif(
    bool(TOOLS), reason=f"no {', '.join(TOOLS)}: pip install -e '.[site]', as make site does"
)

# ---------------------------------------------------------------- the sources


def excerpts():
    """Every excerpt of the pages: (page, file, options)."""
    for page in sorted(DOCS.glob("*.md")):
        block = r"^```\{(?:literalinclude|include)\} (\S+)\n(.*?)^```"
        for path, options in re.findall(block, page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, page.parent / path, dict(re.findall(r":([\w-]+): *(.*)", options))


def test_excerpts_name_what_exists():
    found = list(excerpts())
    assert len(found) > 10
    for page, path, options in found:
        assert path.exists(), f"{page.name}: {path}"
        if "pyobject" in options:
            name = path.resolve().relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            thing = importlib.import_module(name)
            for attribute in options["pyobject"].split("."):
                thing = getattr(thing, attribute)
            assert thing.__module__ == name, "is defined there, not imported"
        for option in ("start-at", "end-at"):
            assert options.get(option, "").strip('"') in path.read_text()


def test_the_metric_card_names_metrics_that_exist():
    named = set(re.findall(r"`(\w+)`", (DOCS / "metrics.md").read_text()))
    assert {"adjusted_rand_index", "foreground_ari", "mean_iou", "average_precision"} <= named
    assert named <= set(metrics.__all__)


def test_licences_of_photographs_are_those_of_the_code():
    page = (DOCS / "data.md").read_text()
    for photograph in PHOTOGRAPHS:
        row = re.search(rf"^\| {photograph.name} \|.*$", page, re.MULTILINE)[0]
        licence = photograph.licence.split(", flickr.com")[0]
        assert licence in row, photograph.name


# ---------------------------------------------------------------- the site


class Page(html.parser.HTMLParser):
    """What a page asks for, what it links to, and where it can be entered."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.loads, self.links, self.ids = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        for key in ("href", "src", "data", "poster", "srcset", "action"):
            if given.get(key):
                (self.links if tag == "a" else self.loads).append(given[key])


class Site:
    def __init__(self, folder):
        self.folder = folder

    @cached_property
    def pages(self):
        paths = [p for p in self.folder.rglob("*.html") if "_static" not in p.parts]
        return {path: Page(path) for path in paths}

    def text(self, name):
        return (self.folder / name).read_text()

    def dead(self):
        """The links that lead nowhere, and the anchors that are not there."""
        for path, page in self.pages.items():
            for link in page.links + page.loads:
                parts = urlsplit(link)
                if parts.scheme or parts.netloc:
                    continue
                target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
                if not target.exists():
                    yield path.name, link
                elif parts.fragment and target in self.pages:
                    if unquote(parts.fragment) not in self.pages[target].ids:
                        yield path.name, link

    def foreign(self):
        """What pages or style sheets would load from another host."""
        for path, page in self.pages.items():
            yield from ((path.name, load) for load in page.loads if urlsplit(load).netloc)
        for path in self.folder.rglob("*.css"):
            for load in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", path.read_text()):
                if not load.startswith("data:") and urlsplit(load).netloc:
                    yield path.name, load


def test_what_is_wrong_with_a_site_is_found(tmp_path):
    page = (
        '<a href="other.html"></a><a href="#there"></a><a href="#gone"></a><p id="there">'
        '<a href="https://elsewhere.org"></a><img src="https://elsewhere.org/a.png">'
        '<script src="//elsewhere.org/a.js"></script>'
    )
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "a.css").write_text(
        "@import 'https://elsewhere.org/b.css'; p {content: url(data:)}"
    )
    site = Site(tmp_path)
    assert [link for _, link in site.dead()] == ["other.html", "#gone"]
    foreign = ["https://elsewhere.org/a.png", "//elsewhere.org/a.js", "https://elsewhere.org/b.css"]
    assert [load for _, load in site.foreign()] == foreign


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", "docs/site", "-d", folder / "trees"]
    command = [sys.executable, "-m", "sphinx", *options, ".", folder / "html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Site(folder / "html")


@needs_tools
def test_the_site(site):
    """One test, as the site is built once."""
    assert not list(site.dead())
    assert not list(site.foreign())

    front = (site.folder / "index.html").read_text()
    assert "docs/index.html" in front, "leads home"
    home = site.text("docs/index.html")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.stem}.html" in home, "in the sidebar"
        page = site.text(f"notebooks/{path.stem}.html")
        assert "<img" in page, "with its pictures"
    for name in figures.NOTEBOOKS:
        page = site.text(f"notebooks/{name}.html")
        assert "In the paper: " in page or "Beyond the paper" in page, (
            "beside the paper's statement"
        )
    for path in DOCS.glob("*.md"):
        assert path.stem == "index" or f'href="{path.stem}.html"' in home, "in the sidebar"
    for path in DOCS.glob("*.html"):
        assert (site.folder / path.name).exists() and path.name in home

    shown = [page for page, path, _ in excerpts() if page.stem == "walk"]
    assert site.text("docs/walk.html").count('<div class="highlight">') == len(shown)
    assert "tex-svg.js" in site.text("docs/walk.html"), "formulas are drawn"
    assert (site.folder / "_static/tex-svg.js").stat().st_size > 1_000_000
    assert "vanilla, attention" in site.text("docs/metrics.html"), "both kinds of mask"

    glance = site.text("docs/claims.html").split("</table>")[0]
    tables = [path for path in (ROOT / "results/cpu/tables").glob("*_claims.csv")]
    rows = [row for path in tables for row in csv.DictReader(path.read_text().splitlines())]
    assert glance.count("<tr") == 1 + len(rows) > 20

    reference = "".join(page.read_text() for page in (site.folder / "docs/api").glob("*.html"))
    for path in (ROOT / "paper_lib").rglob("*.py"):
        if path.stem != "__main__":
            name = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
            assert f'id="module-{name.replace("/", ".")}"' in reference, name
