"""In a real browser: the static page, the page that Voila serves, and nothing leaves this machine.

They need Chromium or Chrome and Playwright: `pip install -e '.[browser]'`, and a browser on the
PATH, such as Debian's package chromium.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import pytest

from paper_lib.explore import page
from paper_lib.paper import parameters
from paper_lib.runs import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
if not BROWSER:
    pytest.skip("needs a browser: install Debian's package chromium", allow_module_level=True)
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright: pip install -e '.[browser]'"
)


@contextmanager
def opened(url, width=1280):
    """A page in the browser; when it closes, what it asked of other hosts, and its errors."""
    faults = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and faults.append(message.text))
        tab.on("request", lambda request: is_elsewhere(request.url) and faults.append(request.url))
        tab.goto(url)
        tab.wait_for_selector("[data-ready=yes]", timeout=120_000)
        yield tab
        browser.close()
    assert not faults


def is_elsewhere(url):
    return urlparse(url).scheme not in ("data", "blob", "file") and (
        urlparse(url).hostname != "127.0.0.1"
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url, process):
    """Wait until a server answers, whatever it says."""
    for _ in range(240):
        time.sleep(0.5)
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            continue
    raise AssertionError(f"{url} does not answer")


def pixels(tab, selector):
    return tab.eval_on_selector(f"{selector} canvas", "canvas => canvas.toDataURL()")


def move_slider(tab, value):
    tab.locator(".slots-control input").evaluate(
        "(slider, value) => {slider.value = value; slider.dispatchEvent(new Event('input'))}", value
    )


@pytest.fixture(scope="module")
def static_page(smoke, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "explore.html"
    path.write_text(page.page(parameters.check("smoke"), count=2))
    return path.as_uri()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_static_page_moves(static_page, width):
    with opened(static_page, width) as tab:
        before = pixels(tab, ".slots-overlay"), pixels(tab, ".slots-picture")
        move_slider(tab, 1)
        assert tab.locator(".slots-score").first.inner_text().startswith(" after 1 step: ")
        tab.wait_for_timeout(200)  # a picture is decoded
        assert pixels(tab, ".slots-overlay") != before[0]
        move_slider(tab, 8)
        tab.locator(".slots-slot input").first.uncheck()  # what remains is drawn without that slot
        tab.wait_for_timeout(200)
        assert pixels(tab, ".slots-overlay") != before[0]
        tab.locator(".slots-alone").nth(1).click()
        assert tab.locator(".slots-panel").first.locator(".slots-off").count() == 2
        swapped = tab.locator("#swap img").nth(2).get_attribute("src")
        opened_on = tab.locator("#scene").evaluate("menu => menu.selectedIndex")
        tab.locator("#scene").select_option(index=1 - opened_on)
        tab.wait_for_timeout(300)
        assert tab.locator("#swap img").count() == 12
        assert tab.locator("#swap img").nth(2).get_attribute("src") != swapped
        assert tab.locator(".slots-panel").count() == 2
        beyond = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert beyond <= 0, "nothing is wider than the page"


def test_the_pages_fg_ari_is_pythons(static_page):
    """On masks with ties, single pixels and no objects at all."""
    import numpy as np

    from paper_lib.metrics import foreground_ari

    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, (20, 16))
    true[18] = 0  # without objects
    true[19] = [1] + 15 * [0]  # one pixel
    found = rng.integers(0, 3, (20, 16))
    found[:5] = true[:5]
    source = (ROOT / "paper_lib/explore/static/viewer.js").read_text()
    code = source[source.index("export function foregroundARI") :]
    code = code[: code.index("\n}\n") + 2].removeprefix("export ")
    with opened(static_page) as tab:
        pairs = [[t.tolist(), f.tolist()] for t, f in zip(true, found)]
        ours = tab.evaluate(
            f"pairs => {{{code}; return pairs.map(p => foregroundARI(...p))}}", pairs
        )
    expected = foreground_ari(true, found)
    got = np.array([np.nan if value is None else value for value in ours])
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.fixture(scope="module")
def served(smoke, root):
    """The notebook as a page, as `make explore` serves it, over the smoke runs."""
    port = free_port()
    notebook = root / "explore_slots.ipynb"
    source = (ROOT / "notebooks/explore_slots.ipynb").read_text()
    notebook.write_text(source.replace('profile = \\"cpu\\"', 'profile = \\"smoke\\"'))
    command = [str(Path(sys.executable).with_name("voila")), str(notebook), "--template=plain"]
    command += ["--Voila.ip=127.0.0.1", f"--port={port}", "--no-browser"]
    places = {"JUPYTER_PATH": str(ROOT / "paper_lib/explore"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=os.environ | places, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/static/favicon.ico", process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


def test_the_served_page_moves_and_regenerates(served):
    with opened(served) as tab:
        tab.wait_for_function(
            "document.querySelectorAll('img[alt^=\"with the other\"]').length == 2"
        )
        before = pixels(tab, ".slots-overlay")
        move_slider(tab, 1)
        assert pixels(tab, ".slots-overlay") != before
        move_slider(tab, 8)
        # a slot is switched off: the picture without it is generated by the kernel
        tab.locator(".slots-slot input").first.uncheck()
        tab.wait_for_function(
            "!document.querySelector('.slots-picture').classList.contains('slots-missing')",
            timeout=60_000,
        )
        # a slot is swapped with the other scene's
        shown = 'img[alt^="with the other"]'
        sources = "images => images.map(image => image.src)"
        swapped = tab.eval_on_selector_all(shown, sources)
        slot = tab.locator("select").filter(has_text="slot 1").first
        chosen = slot.evaluate("select => select.selectedIndex")
        slot.select_option(index=(chosen + 1) % 3)
        tab.get_by_role("button", name="swap and regenerate").click()
        tab.wait_for_function(
            "old => [...document.querySelectorAll('img[alt^=\"with the other\"]')]"
            ".some((image, i) => image.src != old[i])",
            arg=swapped,
            timeout=60_000,
        )
