"""The images of a training as the method sees them: encoded once, where it has an encoding."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from nblib.data.batches import HeldOut
from nblib.files import told_where_unwritable
from nblib.methods.method import Method, as_seen

IN_MEMORY = 2**31
"""How many bytes the encodings of some images may take; those of more lie in a temporary file."""


def encode_all(method: Method, images: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The encodings of uint8 images (n, C, H, W), float32 (n, c, h, w), computed on a device.

    The images themselves where the method has no `encode`.
    """
    if method.encode is None or not len(images):
        return images
    kept = None
    for i in range(0, len(images), 32):
        with torch.no_grad():
            found = as_seen(method, images[i : i + 32], device).cpu().numpy()
        if kept is None:
            kept = _room((len(images), *found.shape[1:]))
        kept[i : i + len(found)] = found
    return kept


def encoded(method: Method, held: HeldOut, device: str = "cpu") -> HeldOut:
    """What a training looks at of some images, as the method sees it: see `encode_all`."""
    if method.encode is None:
        return held
    # The rest is looked at by those alone that train step by step.
    parts = (
        ("normal", "unlabeled", "held_normal", "held_unlabeled") if method.steps else method.needs
    )
    seen = {name: getattr(held, name) for name in parts if name != "pseudo"}
    for name, part in seen.items():
        seen[name] = dataclasses.replace(part, images=encode_all(method, part.images, device))
    return dataclasses.replace(held, **seen)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    size = 4 * math.prod(shape)
    if size <= IN_MEMORY:
        return np.empty(shape, np.float32)
    # The file has no name, and goes when the array does. Its room is taken before it is mapped: a
    # mapped page that finds none later kills the process.
    with told_where_unwritable(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        for _ in range(0, size, 2**20):
            file.write(bytes(2**20))
        return np.memmap(file, np.float32, shape=shape)
