"""In a real browser: every notebook, opened in JupyterLab and run to its end.

Needs what `test_browser` needs. NOTEBOOKS="flagship claims" in the environment runs these alone.
"""

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import nbformat
import pytest
from test_browser import BROWSER, free_port, is_elsewhere, sync_api, wait_for

from paper_lib.paper import figures
from paper_lib.runs import ROOT

NAMES = os.environ.get("NOTEBOOKS", "").split() or list(figures.NOTEBOOKS)
AT_ONCE = 2  # tabs, each with a kernel of one thread
MINUTES = 20  # for all of them, on a busy machine
# What the open notebook has come to: code cells that have not run, whether its kernel is at work,
# and the errors and pictures among its outputs.
STATE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cells = [...panel.content.model.cells].filter(cell => cell.type === "code");
    const outputs = cells.flatMap(cell => cell.outputs.toJSON());
    return {
        waiting: cells.filter(cell => cell.executionCount === null).length,
        busy: panel.sessionContext.session?.kernel?.status !== "idle",
        errors: outputs.filter(output => output.output_type === "error").map(o => o.evalue),
        pictures: outputs.filter(output => "image/png" in (output.data ?? {})).length,
    };
}"""
OPENED = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.sessionContext?.session?.kernel?.status === "idle";
}"""


@pytest.fixture(scope="module")
def lab(root):
    """JupyterLab over copies of the notebooks without their outputs, and the committed results."""
    folder = root / "lab"
    folder.mkdir()
    for name in NAMES:
        notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / f"{name}.ipynb")
    port = free_port()
    command = [str(Path(sys.executable).with_name("jupyter-lab")), f"--port={port}"]
    command += [
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    places = {"PYTHONPATH": str(ROOT), "PAPER_RESULTS": str(ROOT / "results")}
    places["PAPER_DATA"] = str(ROOT / "data")  # where the gallery's scenes have been rendered
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        places[name] = str(root / "jupyter")  # no settings or workspaces of the reader's own
    with open(root / "lab.log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", process)
        yield f"http://127.0.0.1:{port}/doc/tree"
    finally:
        process.terminate()
        process.wait(20)


def started(context, url):
    """A tab in which the notebook has been opened, and all its cells told to run."""
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_function(OPENED, timeout=120_000)
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return tab


def pictures_stored(name):
    cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_every_notebook_runs_in_jupyterlab(lab):
    elsewhere, ended = [], {}
    waiting, running = deque(NAMES), {}
    deadline = time.monotonic() + 60 * MINUTES
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.on("request", lambda asked: is_elsewhere(asked.url) and elsewhere.append(asked.url))
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                name = waiting.popleft()
                running[name] = started(context, f"{lab}/{name}.ipynb")
            for name, tab in list(running.items()):
                tab.wait_for_timeout(500)
                state = tab.evaluate(STATE)
                if state["errors"] or not (state["waiting"] or state["busy"]):
                    ended[name] = state["errors"], state["pictures"]
                    tab.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
                    running.pop(name).close()
            assert time.monotonic() < deadline, f"still running: {', '.join(running)}"
        browser.close()
    assert not elsewhere
    assert ended == {name: ([], pictures_stored(name)) for name in NAMES}
