"""Diagrams of SAGAN's generator and of its gates."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nblib.figures.style import blank, styled

LAYER, CODE, GATE = "#dce9f2", "#f7e0bd", "#cfe8dd"
"""Fills of the boxes in diagrams."""


def _box(axes, x: float, y: float, text: str, colour: str, width: float = 1.0) -> None:
    box = FancyBboxPatch(
        (x - width / 2, y - 0.28), width, 0.56, "round,pad=0.02", fc=colour, ec="black", lw=0.8
    )
    axes.add_patch(box)
    axes.text(x, y, text, ha="center", va="center", fontsize=7)


def _arrow(axes, start, end, bend: float = 0.0) -> None:
    style = dict(arrowstyle="-|>", mutation_scale=8, lw=0.8, color="black")
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style))


@styled
def generator_diagram(width: int = 64, patch: int = 32) -> Figure:
    """SAGAN's generator: one patch on its way through encoder, bottleneck, gates and fusion."""
    figure, axes = blank(height=3.4)
    axes = axes[0, 0]
    scales = [f"{width * 2**k} @ {patch // 2**k}" for k in range(4)]
    for k, scale in enumerate(scales):
        y = 3 - k
        _box(axes, 0, y, f"{'conv 4x4, / 2' if k else 'conv 7x7'}\n{scale}", LAYER, 1.4)
        _box(axes, 6.9, y, f"fuse, x 2\n{scale}" if k else f"fuse\n{scale}", LAYER, 1.1)
        if k:
            _box(axes, 1.9, y, "place code,\nconv 1x1", CODE, 1.4)
            _box(axes, 5.3, y, f"gate {4 - k}", GATE, 0.8)
            _arrow(axes, (0.72, y), (1.18, y))
            _arrow(axes, (5.72, y), (6.33, y))
            _arrow(axes, (6.9, y + 0.3), (6.9, y + 0.7))
    _arrow(axes, (0, 2.7), (0, 2.3))
    for y in (2, 1):
        _arrow(axes, (1.7, y - 0.3), (0.3, y - 0.7))
        _arrow(axes, (2.62, y), (4.88, y))
        _arrow(axes, (6.45, y - 0.7), (5.45, y - 0.3))
    # The maps of the two coarser scales, widened, join the last fusion.
    for y, bend in ((1, 0.35), (0, 0.4)):
        _arrow(axes, (7.47, y), (7.3, 2.68), bend)
    axes.text(8.5, 1.3, "widened", fontsize=7)
    _box(axes, 3.75, 0, "6 residual\nblocks", LAYER, 1.4)
    _arrow(axes, (2.62, 0), (3.03, 0))
    _arrow(axes, (4.47, 0), (4.88, 0))
    _box(axes, 8.3, 3, "conv 7x7\nr", LAYER, 0.9)
    _arrow(axes, (7.47, 3), (7.83, 3))
    _box(axes, 9.85, 3, "x' = tanh(r + x)", GATE, 1.6)
    _arrow(axes, (8.77, 3), (9.03, 3))
    axes.text(0, 3.6, "patch of x", ha="center", fontsize=7)
    _arrow(axes, (0, 3.52), (0, 3.3))
    axes.text(3.75, 1.1, "skip", ha="center", fontsize=7)
    axes.text(3.75, 2.1, "skip", ha="center", fontsize=7)
    axes.set(xlim=(-0.8, 10.8), ylim=(-0.5, 3.8))
    axes.axis("off")
    return figure


@styled
def gate_diagram() -> Figure:
    """An attention gate: what of a skip is let through."""
    figure, axes = blank(height=1.5)
    axes = axes[0, 0]
    for y, name in ((1, "deeper g"), (0, "skip f")):
        axes.text(-0.2, y, name, ha="right", va="center", fontsize=8)
        _box(axes, 0.9, y, "conv 1x1, norm", LAYER, 1.5)
        _arrow(axes, (-0.15, y), (0.13, y))
        _arrow(axes, (1.67, y), (2.15, 0.6 if y else 0.4))
    _box(axes, 2.65, 0.5, "+, ReLU", LAYER, 0.9)
    _box(axes, 4.25, 0.5, "conv 1x1 to\n1 map, norm", LAYER, 1.5)
    _box(axes, 5.85, 0.5, "sigmoid", LAYER, 0.9)
    _box(axes, 7.5, 0.5, "alpha * f", GATE, 0.9)
    for start, end in ((3.12, 3.48), (5.02, 5.38), (6.32, 7.03)):
        _arrow(axes, (start, 0.5), (end, 0.5))
    axes.text(6.67, 0.6, "alpha", ha="center", fontsize=7)
    axes.plot([-0.6, -0.6, 7.5], [-0.2, -0.55, -0.55], color="black", lw=0.8)
    _arrow(axes, (7.5, -0.55), (7.5, 0.2))
    axes.set(xlim=(-1.4, 8.2), ylim=(-0.8, 1.4))
    axes.axis("off")
    return figure
