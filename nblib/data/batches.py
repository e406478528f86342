"""Images as training is handed them: without a label, and without a way to one.

Part -> HeldOut -> Batch, on the device. The images lie on the device as uint8 and become floats
there. The batch of step k is a function of (seed, k) alone, so that training resumes at any step
without a random state of its own, and is the same on every device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Some images of a set.

    images: uint8 (n, C, H, W), or float encodings of them, see `Method.encode`; names: (n,) file
    names; patients: (n,), an image's own name where the set names no patients; sizes: (n, 2) width
    and height of the files in pixels.
    """

    images: np.ndarray
    names: np.ndarray
    patients: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> "Part":
        return Part(self.images[index], self.names[index], self.patients[index], self.sizes[index])


@dataclass(frozen=True)
class HeldOut:
    """What trains (`normal`, `unlabeled`) and what is kept from training (`held_*`)."""

    normal: Part
    unlabeled: Part
    held_normal: Part
    held_unlabeled: Part


class Batch(NamedTuple):
    """Float images (B, C, H, W) in [-1, 1], or encodings; None what the method does not need.

    `pseudo` are the images of `normal`, each with a pseudo-anomaly.
    """

    normal: Tensor
    unlabeled: Tensor | None
    pseudo: Tensor | None


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float in [-1, 1]: x / 127.5 - 1. Floats, which are encodings, stay."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def step_seed(seed: int, step: int) -> int:
    """A seed for one step of one run, unlike that of the other steps but for chance.

    Torch's generator on the CPU uses its lower 32 bits: of 100,000 steps one or two share a batch.
    """
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


class Batches:
    """Batches of known normal and unlabeled images, drawn independently.

    Without replacement, but with it where a set is smaller than a batch.

    normal, unlabeled: uint8 (n, C, H, W), or encodings; needs: which of normal, unlabeled, pseudo
    to make.
    """

    def __init__(self, normal, unlabeled, needs, batch_size: int, seed: int, device="cpu"):
        self.normal = torch.from_numpy(normal).to(device)
        self.unlabeled = torch.from_numpy(unlabeled).to(device) if "unlabeled" in needs else None
        self.needs, self.batch_size, self.seed = needs, batch_size, seed
        if "pseudo" in needs and len(normal) < 2:
            raise ValueError("Pseudo-anomalies need at least 2 known normal images.")

    def __call__(self, step: int) -> Batch:
        # Drawn on the host, so that every device sees the same batch; sent at once, not waited for.
        random, n = np.random.default_rng((self.seed, step)), len(self.normal)
        drawn = [self._draw(n, random)]
        if "unlabeled" in self.needs:
            drawn.append(self._draw(len(self.unlabeled), random))
        if "pseudo" in self.needs:
            # Another image than its own: a step of 1 to n - 1 round the set.
            drawn.append((drawn[0] + random.integers(1, n, self.batch_size)) % n)
            drawn += draw_squares(self.batch_size, self.normal.shape[-1], random)
        rows = iter(self._sent(np.array(drawn, float)))
        normal, unlabeled, pseudo = to_float(self.normal[next(rows).long()]), None, None
        if "unlabeled" in self.needs:
            unlabeled = to_float(self.unlabeled[next(rows).long()])
        if "pseudo" in self.needs:
            other = to_float(self.normal[next(rows).long()])
            pseudo = blend(normal, other, Squares(*rows))
        return Batch(normal, unlabeled, pseudo)

    def _draw(self, n: int, random: np.random.Generator) -> np.ndarray:
        return random.choice(n, self.batch_size, replace=n < self.batch_size)

    def _sent(self, numbers: np.ndarray) -> Tensor:
        sent = torch.from_numpy(numbers)
        if self.normal.is_cuda:
            sent = sent.pin_memory()
        return sent.to(self.normal.device, non_blocking=True)


class Squares(NamedTuple):
    """Where and how strongly, (B,) each: centre row and column, half width, blend in [0, 1).

    Pseudo-anomalies: a square of another normal image, blended in at the same place. The recipe of
    SAGAN's published code (Zhang et al., MICCAI 2024), of the kind known as foreign patch
    interpolation. With a size of 64 the square's centre lies in 12..50 in both directions and its
    half width is 3..12 pixels; other sizes scale these bounds.
    """

    row: np.ndarray | Tensor
    column: np.ndarray | Tensor
    half: np.ndarray | Tensor
    alpha: np.ndarray | Tensor


def draw_squares(count: int, size: int, random: np.random.Generator) -> Squares:
    """`count` random squares in images of `size` x `size`, as arrays."""
    centre, half = (int(0.2 * size), int(0.8 * size)), (round(0.05 * size), round(0.2 * size))
    where = [random.integers(*bounds, count) for bounds in (centre, centre, half)]
    return Squares(*where, random.random(count))


def blend(x: Tensor, foreign: Tensor, squares: Squares) -> Tensor:
    """Blend each square of `foreign` into `x`, both (B, C, H, W): (1 - alpha) x + alpha foreign.

    squares: tensors on the images' device. A square [centre - half, centre + half) is cut off at
    the image's border.
    """
    row, column, half, alpha = (values[:, None, None] for values in squares)
    rows = torch.arange(x.shape[-2], device=x.device)[None, :, None]
    columns = torch.arange(x.shape[-1], device=x.device)[None, None, :]
    inside = (rows >= row - half) & (rows < row + half)
    inside = inside & (columns >= column - half) & (columns < column + half)
    return x.lerp(foreign, (alpha * inside)[:, None].to(x.dtype))


def flipped(x: Tensor) -> Tensor:
    """Images (B, C, H, W), each mirrored left to right with probability 1/2."""
    mirror = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirror, x.flip(3), x)
