"""Images as training is handed them: without a label, and without a way to one."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """Some images of a set.

    images: uint8 (n, C, H, W); names: (n,) file names; patients: (n,), an image's own name where
    the set names no patients; sizes: (n, 2) width and height of the files in pixels.
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
