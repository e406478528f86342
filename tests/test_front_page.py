"""The front page: what it says of a batch that waits, runs, fails and is done."""

import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from browser import in_a_browser, opened
from nblib import front_page, plan
from nblib.front_page import DONE, FAILED, RUNNING, WAITING, FrontPage

PIXEL = "iVBORw0KGgo="


@pytest.fixture
def pages(project_root):
    return {page.name: page for page in plan.pages(["a <b>"], "quick", ["0"])}


def finish(page, area=0.8126, outputs=()):
    """What an executed notebook leaves behind."""
    page.html.parent.mkdir(parents=True, exist_ok=True)
    page.html.write_text("<html></html>")
    for file in page.made.values():
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"auc": area, "auc_interval": [area - 0.1, area + 0.1]}))
    execute(page, *outputs)


def execute(page, *outputs):
    page.executed.parent.mkdir(parents=True, exist_ok=True)
    cell = new_code_cell("1", outputs=list(outputs))
    nbformat.write(new_notebook(cells=[cell]), page.executed)


def rows(text):
    """What each notebook's block says, by its number, without marks and layout."""
    blocks = re.split(r'<div class="notebook">', text)[1:]
    words = [" ".join(re.sub(r"<[^>]*>", " ", block).split()) for block in blocks]
    return {block[:2]: block for block in words}


def test_all_notebooks_wait_at_first_with_title_and_sentence(pages):
    front = FrontPage(list(pages.values()))
    front.write()
    text = front.file.read_text()
    said = rows(text)
    assert list(said) == sorted({page.notebook[:2] for page in pages.values()})
    assert said["22"].startswith("22 SAGAN: spatial-aware attention GAN SAGAN (2024): patches")
    assert all("waiting" in words for words in said.values())
    assert f"0 of {len(pages)} pages" in text and 'http-equiv="refresh"' in text
    assert "a &lt;b&gt;, quick" in text and "<b>, quick" not in text


def test_states_numbers_links_and_trouble(pages):
    front = FrontPage(list(pages.values()))
    sagan, trivial = pages["22_sagan-seed0"], pages["02_trivial_baselines-seed0"]
    finish(sagan)
    finish(trivial, 0.6)
    error = new_output("error", ename="ValueError", evalue="a <bad> thing\nhappened", traceback=[])
    execute(pages["21_brainomaly-seed0"], error)
    front.states |= {sagan: DONE, trivial: DONE, pages["20_healthygan-seed0"]: RUNNING}
    front.states[pages["21_brainomaly-seed0"]] = FAILED
    front.left = "about 3 min left"
    front.write()
    text = front.file.read_text()
    said = rows(text)
    assert "done" in said["22"] and "0.813 [0.713, 0.913]" in said["22"]
    assert said["02"].count("0.600 [0.500, 0.700]") == len(trivial.methods)
    assert "running" in said["20"] and "failed happened" in said["21"]
    assert "3 of" in text and "1 failed" in text and "about 3 min left" in text
    links = re.findall(r'href="([^"]+)"', text)
    assert "a%20%3Cb%3E/quick/22_sagan-seed0.html" in links


def test_pictures_and_tables_are_linked_once_they_are_there(pages, project_root):
    front = FrontPage(list(pages.values()))
    folder = project_root / "figures" / "a <b>" / "quick"
    folder.mkdir(parents=True)
    for name in ("qualitative.png", "auc.png", "results.md", "results.csv"):
        (folder / name).write_text("")
    picture = new_output("display_data", data={"image/png": PIXEL})
    code = pages["30_place_code-sagan_place_acts-seed0"]
    finish(code, outputs=[picture])
    front.write()
    text = front.file.read_text()
    sources = re.findall(r'<img src="([^"]+)"', text)
    assert sources[:2] == [f"../a%20%3Cb%3E/quick/{n}.png" for n in ("qualitative", "auc")]
    assert sources[2] == f"data:image/png;base64,{PIXEL}" and len(sources) == 3
    assert '<a href="../a%20%3Cb%3E/quick/results.csv">csv</a>' in text


def test_a_finished_batch_reloads_no_more_and_pages_of_others_stay_listed(pages):
    for page in pages.values():
        finish(page)
    other = plan.page_of("sagan_learned", "other", "laptop", "2")
    finish(other)
    for name in ("notes", f"{other.html.stem} (copy)", "22_sagan", "22_sagan-seed0-seed1"):
        (other.html.parent / f"{name}.html").write_text("mine")
    front = FrontPage([])
    front.write()
    text = front.file.read_text()
    assert 'http-equiv="refresh"' not in text and "pages at" not in text
    assert "sagan_learned, seed 2" in text and "other, laptop" in text and "notes" not in text
    assert "copy" not in text and "22_sagan.html" not in text and "seed0-seed1" not in text
    assert text.count("0.813 [0.713, 0.913]") == 1 + sum(len(p.methods) for p in pages.values())
    assert set(FrontPage(list(pages.values())).states.values()) == {DONE}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"auc": 0.5}'),
        *(
            f'{{"auc": 0.5, "auc_interval": {interval}}}'
            for interval in ("[0]", "null", '["a", 1]')
        ),
    ],
)
def test_a_run_without_numbers_has_none(tmp_path, text):
    file = tmp_path / "metrics.json"
    file.write_text(text)
    assert front_page.number(file) == front_page.number(tmp_path / "none") == ""


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"nbformat": 4, "cells": [1]}'])
def test_the_page_is_written_whatever_an_executed_copy_is(pages, text):
    page = pages["30_place_code-sagan_place_acts-seed0"]
    finish(page)
    page.executed.write_text(text)
    front = FrontPage([page])
    front.states[page] = FAILED
    front.write()
    assert "failed" in rows(front.file.read_text())["30"]


@in_a_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_the_window_and_asks_for_nothing_from_elsewhere(pages, width):
    for page in list(pages.values())[:9]:
        finish(page)
    front = FrontPage(list(pages.values()))
    front.write()
    assert WAITING in front.states.values()
    with opened(front.file.as_uri(), width) as (page, asked):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".notebook").count() == len({p.notebook for p in pages.values()})
    assert all(address.startswith(("file:", "data:")) for address in asked)
