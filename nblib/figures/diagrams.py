"""Diagrams of SAGAN, drawn by hand once."""

from pathlib import Path

from IPython.display import SVG


def diagram(name: str) -> SVG:
    """`generator`, one patch on its way through it as published, or `gate`, an attention gate."""
    return SVG(filename=Path(__file__).parent / "static" / f"{name}.svg")
