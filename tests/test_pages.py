import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from browser import in_a_browser, opened
from nblib.pages import LIVE, write_page

COMMITTED = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9][0-9]_*.ipynb"))
FORMULA = r"A sum $\sum_i w_i = 1$, and" "\n\n" r"$$ \hat x = \frac{a_1 + b}{\sqrt{d}} $$"


@pytest.fixture
def page(tmp_path):
    """A page of a formula, a table, a Markdown output with one, a live widget and a navigation."""
    table = new_output("execute_result", data={"text/html": "<table><td>7.5</td></table>"})
    words = new_output("display_data", data={"text/markdown": "so $\\alpha = 2$"})
    live = new_output("display_data", data={LIVE: {"model_id": "1"}, "text/plain": "VBox()"})
    cells = [
        new_markdown_cell(FORMULA),
        new_code_cell("table", outputs=[table, words, live]),
        new_markdown_cell("[next](next.ipynb)", metadata={"tags": ["navigation"]}),
    ]
    state = {"application/vnd.jupyter.widget-state+json": {"state": {"1": {}}}}
    nb = new_notebook(cells=cells, metadata={"widgets": state})
    nbformat.write(nb, tmp_path / "a.ipynb")
    write_page(tmp_path / "a.ipynb", tmp_path / "html" / "a.html", "a title")
    return tmp_path / "html" / "a.html"


def test_formulas_are_mathml_wherever_markdown_is(page):
    text = page.read_text()
    assert text.count("<math") == 3 and "$" not in re.sub(
        r"<style.*?</style>", "", text, flags=re.S
    )
    assert '<math display="block"' in text or 'display="block"' in text
    # A fraction over a root, an accent, an index: the structure and not the source.
    block = re.search(r"<math[^>]*display=\"block\".*?</math>", text, re.S)[0]
    assert all(f"<m{name}" in block for name in ("frac", "sqrt", "over", "sub"))
    assert "<title>a title</title>" in text and "7.5" in text and "next.ipynb" not in text


def test_a_name_in_markdown_can_be_no_script(tmp_path):
    name = r"<img src=x onerror=alert(1)> $\frac$"
    words = new_output("display_data", data={"text/markdown": f"Set {name}, budget quick."})
    nbformat.write(new_notebook(cells=[new_code_cell("", outputs=[words])]), tmp_path / "a.ipynb")
    write_page(tmp_path / "a.ipynb", tmp_path / "a.html", name)
    text = (tmp_path / "a.html").read_text()
    assert "<img src=x" not in text and text.count("&lt;img src=x onerror") >= 2
    assert r"<code>\frac</code>" in text


def test_of_what_needs_a_kernel_it_says_where_it_is_live(page):
    text = page.read_text()
    assert "live in JupyterLab alone" in text and "VBox()" not in text and LIVE not in text


def test_nothing_in_it_leads_to_a_script_or_style_elsewhere(page):
    text = page.read_text()
    assert re.findall(r"<(?:script|img|iframe)[^>]* src=|<link[^>]* href=|import\(", text) == []


@in_a_browser
def test_a_browser_asks_for_nothing_but_the_page_and_draws_its_formulas(page):
    with opened(page.as_uri()) as (shown, asked):
        shown.wait_for_timeout(300)
        fraction = shown.locator("math[display=block] mfrac").first.bounding_box()
        line = shown.locator("math[display=block] mi").first.bounding_box()
    assert asked == [page.as_uri()]
    assert fraction["height"] > 1.5 * line["height"]  # one thing above the other


@pytest.mark.parametrize("notebook", COMMITTED, ids=lambda file: file.stem)
def test_every_formula_of_the_notebooks_is_understood(notebook, tmp_path):
    write_page(notebook, tmp_path / "a.html", "a")
    formulas = re.findall(r"<math.*?</math>", (tmp_path / "a.html").read_text(), re.S)
    left = [f for f in formulas if "\\" in f]
    assert left == []
    source = [c.source for c in nbformat.read(notebook, 4).cells if c.cell_type == "markdown"]
    assert len(formulas) >= sum(text.count("$$") // 2 for text in source)
