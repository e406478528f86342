"""The explorer in a real JupyterLab, in a real browser: what a user clicks, drags and reads.

A picture of it is kept in the folder of the variable NBLIB_ARTEFACTS, where that is set.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import papermill
import pytest

from browser import BROWSER, in_a_browser
from files import folder_digest
from nblib.data import datasets
from nblib.methods.catalogue import METHODS
from nblib.training import budgets, loop, runs

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "60_explore.ipynb"
PATIENCE = 60_000
"""Milliseconds to wait for what comes at once where nothing else runs."""

pytestmark = in_a_browser


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project folder with a few finished runs on the drawn set."""
    folder = tmp_path_factory.mktemp("browsed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(folder))
        dataset = datasets.load("phantom")
        for method in ("nearest_normals", "mean_image", "ganomaly"):
            runs.run(method, dataset, "smoke")
    return folder


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    """The address of a notebook in a JupyterLab of its own, and its token."""
    folder, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    parameters = {"data": "phantom", "budget": "smoke", "method": "ganomaly"}
    papermill.execute_notebook(
        str(NOTEBOOK), str(folder / NOTEBOOK.name), parameters, prepare_only=True
    )
    announcements = "@jupyterlab/apputils-extension:announcements"
    settings = {
        # It asks whether news may be fetched, over the picture that is kept.
        "labconfig/page_config.json": {"disabledExtensions": {announcements: True}},
        # All cells are in the page, not only those in sight.
        "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
            "windowingMode": "none"
        },
    }
    for name, content in settings.items():
        file = home / "config" / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    environment = os.environ | {
        "NBLIB_ROOT": str(root),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}")
                break
            except urllib.error.URLError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?token={token}"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def page(lab):
    """The page with the notebook, all of its cells run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 2400})
        page.set_default_timeout(PATIENCE)
        page.goto(lab)
        page.locator(".jp-Notebook").wait_for()
        # Else it would ask which kernel is meant.
        page.get_by_text("(ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.get_by_text("No training is in progress").first.wait_for(timeout=3 * PATIENCE)
        page.locator(".nblib").first.scroll_into_view_if_needed()
        yield page
        browser.close()


def picture(page, title, nth=0):
    """The source of the picture under a title; it changes when the picture does."""
    tile = page.locator(".widget-vbox", has=page.locator(f".nblib-title:text-is('{title}')")).last
    return tile.locator("img").nth(nth).get_attribute("src")


def changed(page, read, before):
    """Wait until what is read is something else, and return that."""
    for _ in range(PATIENCE // 100):
        if (now := read()) != before:
            return now
        page.wait_for_timeout(100)
    raise AssertionError(f"it is still {before}")


def counts(view):
    """Name -> how many of how many, as written under the threshold."""
    text = view.locator(".nblib-count").all_inner_texts()
    found = [re.match(r"(.*?) [\d.]+ \((\d+) of (\d+)\)", line) for line in text]
    return {match[1]: (int(match[2]), int(match[3])) for match in found}


def drag_threshold(page, share):
    """Drag the threshold to a share of the slider's width."""
    handle = page.locator(".nblib .noUi-handle").first
    handle.scroll_into_view_if_needed()
    box, slider = handle.bounding_box(), page.locator(".nblib .noUi-target").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(slider["x"] + share * slider["width"], box["y"] + 5, steps=5)
    page.mouse.up()


def heat_map(page):
    return lambda: picture(page, "heat map")


def test_the_explorer_in_jupyterlab(page, root, tmp_path):
    before = folder_digest(root / "data" / "runs")
    explorer, alone = page.locator(".nblib").first, page.locator(".nblib").nth(-2)
    about = page.locator(".nblib p").first
    assert "ganomaly on phantom (drawn), smoke, seed 0" in about.inner_text()

    # Another method.
    shown = picture(page, "heat map")
    page.locator(".nblib select").nth(2).select_option("mean_image")
    changed(page, heat_map(page), shown)
    assert "mean_image on phantom" in about.inner_text()

    # Another image, by a click and by an arrow key.
    shown, rows = picture(page, "heat map"), page.locator(".nblib-ranking tbody tr")
    assert rows.count() == 14
    name = rows.nth(3).get_attribute("data-image")
    rows.nth(3).click()
    shown = changed(page, heat_map(page), shown)
    explorer.get_by_text(f"{name}: score").wait_for()
    page.keyboard.press("ArrowDown")
    changed(page, heat_map(page), shown)
    explorer.get_by_text(f"{rows.nth(4).get_attribute('data-image')}: score").wait_for()
    assert "chosen" in rows.nth(4).get_attribute("class")

    # The threshold: dragged to the right end, then to the left, then back.
    own, curves = counts(explorer), page.locator(".nblib img").first
    drawn = curves.get_attribute("src")
    drag_threshold(page, 1.1)
    numbers = changed(page, lambda: counts(explorer), own)
    changed(page, lambda: curves.get_attribute("src"), drawn)
    explorer.get_by_text("called abnormal 0.00 (0 of 400)").wait_for()
    none = counts(explorer)
    assert none["sensitivity"] == (0, 200) and none["specificity"] == (200, 200)
    assert set(page.locator(".nblib-ranking tbody td:last-child").all_inner_texts()) == {"normal"}
    drag_threshold(page, 0.3)
    explorer.get_by_text("called abnormal 0.00 (0 of 400)").wait_for(state="detached")
    page.wait_for_timeout(1000)
    numbers = counts(explorer)
    false = numbers["specificity"][1] - numbers["specificity"][0]
    assert numbers["called abnormal"] == (numbers["sensitivity"][0] + false, 400)
    explorer.get_by_text("Moved by hand").wait_for()

    # The view that stands alone in a cell has moved with it.
    alone.get_by_text("Moved by hand").wait_for()
    assert counts(alone) == numbers
    explorer.get_by_role("button", name="back to the run's own").click()
    explorer.get_by_text("The threshold is fixed by").wait_for()
    assert counts(explorer) == own

    # Methods side by side; nearest_normals is there already.
    compared = page.locator(".nblib-title").filter(
        has_text=re.compile("^(ganomaly|nearest_normals)$")
    )
    assert compared.all_inner_texts() == ["nearest_normals"]
    explorer.get_by_role("button", name="ganomaly", exact=True).click()
    page.wait_for_function(
        "[...document.querySelectorAll('.nblib-title')].some(e => e.textContent === 'ganomaly')"
    )
    assert compared.all_inner_texts() == ["nearest_normals", "ganomaly"]
    assert picture(page, "ganomaly") != picture(page, "nearest_normals")

    # A patch, dragged.
    canvas = page.locator(".nblib-canvas img")
    canvas.scroll_into_view_if_needed()
    unpainted, box = canvas.get_attribute("src"), canvas.bounding_box()
    x, y, side = box["x"], box["y"], box["width"] / 32
    page.mouse.move(x + 10.5 * side, y + 15.5 * side)
    page.mouse.down()
    page.mouse.move(x + 14.5 * side, y + 20.5 * side, steps=4)
    page.mouse.up()
    changed(page, lambda: canvas.get_attribute("src"), unpainted)
    scores = page.locator(".nblib table b")
    assert scores.count() == 2
    rectangle = page.locator(".nblib-canvas div").bounding_box()
    assert rectangle["width"] == pytest.approx(5 * side, abs=1)
    assert rectangle["height"] == pytest.approx(6 * side, abs=1)
    first, change = scores.nth(1).inner_text(), picture(page, "change")
    assert first != scores.nth(0).inner_text()
    page.mouse.move(x + 1.5 * side, y + 1.5 * side)
    page.mouse.down()
    page.mouse.move(x + 20 * side, y + 20 * side, steps=4)
    page.mouse.up()
    changed(page, lambda: scores.nth(1).inner_text(), first)
    changed(page, lambda: picture(page, "change"), change)

    for width in (1280, 1920):
        page.set_viewport_size({"width": width, "height": 2400})
        kept = Path(os.environ.get("NBLIB_ARTEFACTS") or tmp_path) / f"explorer-{width}.png"
        kept.parent.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1000)
        page.locator(".nblib").first.screenshot(path=kept)
        # Nothing that would have to be scrolled inside the widget.
        wider = "e => [...e.querySelectorAll('*')].filter(c => c.scrollWidth > c.clientWidth + 1 "
        wider += "&& ['auto', 'scroll'].includes(getComputedStyle(c).overflowX)).length"
        assert page.locator(".nblib").first.evaluate(wider) == 0
    explorer.get_by_role("button", name="clear", exact=True).click()
    changed(page, scores.count, 2)
    assert folder_digest(root / "data" / "runs") == before


class Stopped(Exception):
    pass


def test_a_training_in_another_process_shows_up_and_is_followed(page, root, monkeypatch):
    """This process trains, the notebook's kernel watches."""
    monkeypatch.setenv("NBLIB_ROOT", str(root))
    dataset = datasets.load("phantom")
    here = runs.run_folder("phantom", "smoke", "alocc", 0)
    here.mkdir(parents=True)
    (here / "config.json").write_text("{}")
    model = METHODS["alocc"].make(**budgets.arguments("alocc", "smoke", dataset.size))

    def stop(_, step):
        if step == 8:
            raise Stopped

    with pytest.raises(Stopped):
        loop.fit(model, dataset.hold_out(0), 0, here / "checkpoint.pt", watch=stop)
    page.get_by_text("alocc on phantom (drawn), smoke, seed 0: step 4 of 8").wait_for()
    curves = page.locator(".nblib").last.locator("img")
    before = curves.get_attribute("src")
    shutil.rmtree(here)
    runs.run("alocc", dataset, "smoke")
    page.get_by_text("alocc on phantom (drawn), smoke, seed 0 has finished").wait_for()
    changed(page, lambda: curves.get_attribute("src"), before)

    # It can now be chosen above.
    page.get_by_title("look for runs again").click()
    methods = page.locator(".nblib select").nth(2)
    changed(page, lambda: "alocc" in methods.inner_text(), False)
