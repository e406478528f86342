"""An executed notebook -> a page that loads nothing from elsewhere, which opens offline."""

import html
import os
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from nblib.files import front_page, written_whole

TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}
<style>
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "STIX Math",
       "DejaVu Math TeX Gyre", math; font-size: 1.1em; }
</style>
{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
"""
"""nbconvert's page, but for what it would fetch: require.js, MathJax, Mermaid."""

LIVE = "application/vnd.jupyter.widget-view+json"
ELSEWHERE = "*What is moved here by hand is live in JupyterLab alone; pictures of it follow.*"


class _Markdown(IPythonRenderer):
    """Formulas become MathML, which browsers draw themselves."""

    def block_math(self, body: str) -> str:
        return _formula(body, "block")

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")


def _formula(body: str, display: str) -> str:
    try:
        return convert(body, display=display)
    except Exception:  # its errors have no other base; a name may have dollars in it
        return f"<code>{html.escape(body)}</code>"


def _to_html(source: str) -> str:
    # Notebooks, to which links lead, are not beside the page.
    source = re.sub(r"\[([^\]]+)\]\(\d\d_\w+\.ipynb\)", r"\1", source)
    return MarkdownWithMath(renderer=_Markdown(escape=True)).render(source)


def write_page(executed: Path, page: Path, title: str) -> None:
    """Write an executed copy as a page, with a way back to the front page where it is below it."""
    without = {"enabled": True, "remove_cell_tags": ["navigation"]}
    exporter = HTMLExporter(raw_template=TEMPLATE, config=Config(TagRemovePreprocessor=without))
    exporter.register_filter("markdown2html", _to_html)
    nb = nbformat.read(executed, 4)
    if front_page().parent in page.absolute().parents:
        back = os.path.relpath(front_page(), page.absolute().parent)
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(f"[← All pages]({back})"))
    nb.metadata.pop("widgets", None)
    for output in [output for cell in nb.cells for output in cell.get("outputs", [])]:
        if LIVE in output.get("data", {}):
            output["data"] = {"text/markdown": ELSEWHERE}
    text, _ = exporter.from_notebook_node(nb, {"metadata": {"name": title}})
    with written_whole(page) as file:
        file.write(text.encode())
