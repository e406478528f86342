"""What the tests of methods share: small images, batches and sets, a critic worked out by hand."""

import numpy as np
import torch
from scipy.special import log_expit
from torch import nn

from nblib.data.batches import Batch, HeldOut, Part

SMALL = dict(size=32, width=4, batch_size=4, steps=8)
"""Arguments of a small method that learns from known normals."""

SMALL_MIX = SMALL | dict(critic_width=4, critic_layers=4)
"""And of one with a critic."""


def images(count=4, channels=1, size=32):
    """Noise (count, channels, size, size) in [-1, 1)."""
    return torch.rand(count, channels, size, size) * 2 - 1


def normals(x=None):
    """A batch of known normals alone."""
    return Batch(images() if x is None else x, None, None)


def batch(channels=1):
    """A batch of all three kinds."""
    return Batch(images(4, channels), images(4, channels), images(4, channels))


def parameters(module):
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())


def in_a_row(network):
    """A copy of all parameters of a network."""
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def weights(method):
    """All parameters of each network of a method in a row."""
    return {name: in_a_row(network) for name, network in method.named_children()}


def values(terms):
    """The terms of an update as numbers."""
    return {name: term.item() for name, term in terms.items()}


def cross_entropy(logits, label):
    logits = logits.detach().numpy().astype(float)
    return -np.mean(label * log_expit(logits) + (1 - label) * log_expit(-logits))


class Linear(nn.Module):
    """In place of a critic: D(x) = <w, x>, whose gradient is w, of this length, everywhere."""

    def __init__(self, length, channels):
        super().__init__()
        w = torch.randn(1, channels, 32, 32)
        self.w = nn.Parameter(w * length / w.norm())

    def forward(self, x):
        return (self.w * x).sum((1, 2, 3), keepdim=True)

    def numpy(self, x):
        return (self.w.detach().numpy().astype(float) * x).sum((1, 2, 3))


# Sets to train on for some dozens of steps


def part(pixels, first=0):
    """Images (n, 1, size, size) as a part of a set, named by numbers from `first` on."""
    names = np.array([f"{first + i}.png" for i in range(len(pixels))])
    return Part(pixels, names, names, np.full((len(pixels), 2), pixels.shape[-1]))


def blobs(count, seed):
    """A bright blob somewhere on grey, uint8 (count, 1, 32, 32)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    row, column = random.uniform(-0.4, 0.4, (2, count, 1, 1))
    pixels = 40 + 180 * np.exp(-4 * ((y - row) ** 2 + (x - column) ** 2))
    return pixels.astype(np.uint8)[:, None]


def with_square(x):
    """A copy of images with a white square, and where it lies."""
    where = (..., slice(2, 10), slice(2, 10))
    spoilt = x.clone()
    spoilt[where] = 1
    return spoilt, where


def normals_held_out():
    """32 known normals to train on and 8 held out, no unlabeled images: blobs."""
    return HeldOut(*map(part, (blobs(32, 0), blobs(0, 0), blobs(8, 1), blobs(0, 0))))


def smooth(count, seed, spots=False):
    """uint8 (count, 1, 32, 32): slow waves round grey; with `spots` a bright disc on each."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    a, b, c = random.uniform(-30, 30, (3, count, 1, 1))
    pixels = 110 + a * x + b * y + c * x * y
    if spots:
        cx, cy = random.uniform(-0.5, 0.5, (2, count, 1, 1))
        pixels = pixels + 80 * ((x - cx) ** 2 + (y - cy) ** 2 < 0.1)
    return pixels.round().clip(0, 255).astype(np.uint8)[:, None]


def mix():
    """16 known normals and 16 unlabeled images, of which half have a disc; none held out."""
    unlabeled = np.concatenate([smooth(8, 2), smooth(8, 3, spots=True)])
    return HeldOut(part(smooth(16, 1)), part(unlabeled, 100), *[part(smooth(0, 0))] * 2)


# What networks are shown


def inputs_seen(method, batch, step):
    """What critic and generator see for each update of a step: {name: {network: [inputs]}}."""
    seen, updates = {}, {}

    def spy(key, network):
        forward = network.forward

        def noting(x):
            seen.setdefault(key, []).append(x.detach())
            return forward(x)

        network.forward = noting

    spy("D", method.D)
    spy("G", method.G)
    for name, _ in method.updates(batch, step):
        updates[name] = dict(seen)
        seen.clear()
    return updates


def is_among(x, seen):
    """Whether every image of x is among those seen, or none is."""
    distance = (x[:, None] - torch.cat(seen)[None]).abs().amax((2, 3, 4)).amin(1)
    assert distance.max() < 1e-4 or distance.min() > 0.05
    return bool(distance.max() < 1e-4)
