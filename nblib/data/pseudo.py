"""Pseudo-anomalies: a square of another normal image, blended in at the same place.

The recipe of SAGAN's published code (Zhang et al., MICCAI 2024), of the kind known as foreign
patch interpolation. With a size of 64 the square's centre lies in 12..50 in both directions and
its half width is 3..12 pixels; other sizes scale these bounds.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Squares(NamedTuple):
    """Where and how strongly, (B,) each: centre row and column, half width, blend in [0, 1)."""

    row: Tensor
    column: Tensor
    half: Tensor
    alpha: Tensor


def draw_squares(count: int, size: int, generator: torch.Generator) -> Squares:
    """`count` random squares in images of `size` x `size`, drawn on the generator's device."""

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    centre = int(0.2 * size), int(0.8 * size)
    half = round(0.05 * size), round(0.2 * size)
    alpha = torch.rand(count, generator=generator)
    return Squares(integers(*centre), integers(*centre), integers(*half), alpha)


def blend(x: Tensor, foreign: Tensor, squares: Squares) -> Tensor:
    """Blend each square of `foreign` into `x`, both (B, C, H, W): (1 - alpha) x + alpha foreign.

    A square [centre - half, centre + half) is cut off at the image's border.
    """
    row, column, half, alpha = (v.to(x.device)[:, None, None] for v in squares)
    rows = torch.arange(x.shape[-2], device=x.device)[None, :, None]
    columns = torch.arange(x.shape[-1], device=x.device)[None, None, :]
    inside = (rows >= row - half) & (rows < row + half)
    inside = inside & (columns >= column - half) & (columns < column + half)
    weight = (alpha * inside)[:, None]
    return (1 - weight) * x + weight * foreign
