"""SAGAN's generator on maps of features: what its parts add to the plain map of
`brainomaly_features`.

Not in the thesis; its question where features are good. Everything else (the space, the critic,
the losses, the length) is that of the plain map. There are no pseudo-anomalies, which are drawn
into pixels and would have to be encoded at every step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from nblib.methods.encodings import AttentionSpec, Whole
from nblib.methods.layers import AttentionGate, Concatenated

GRID = 2
"""Of a place code: SAGAN's 2 x 2 patches, told apart on a map that is not cut."""


class PlainResidual(nn.Module):
    """x + conv(LeakyReLU(conv(x))), 3x3, without a norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, 1, 1)
        self.outer = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(leaky_relu(self.inner(x), 0.2))


class GatedMap(nn.Module):
    """G (B, channels, h, w) -> the same, h and w even: SAGAN's generator, of one scale.

    A 1x1 convolution, at this size a skip; half the size and twice the channels for attention and
    two residual blocks; back, with the skip through an attention gate; the last layer begins as
    zero. As on pixels the gate is told by the deeper map (thesis, eq. 2.21), and the place code
    goes on and into the skip (eq. 2.20). Unlike there a map is not cut, which 7 x 7 places forbid,
    and there is no instance norm between the layers: it would subtract how far an image's features
    lie from those of known normals, which is what whitening has made visible.

    place: a class of `encodings`, or None; attention: of the halved map, if there is one.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        side: int,
        place: type[nn.Module] | None,
        attention: AttentionSpec | None,
    ):
        super().__init__()
        code = Whole(place(GRID)) if place else None
        self.told = Concatenated(code) if code else nn.Identity()
        self.stem = nn.Conv2d(channels + (code.channels if code else 0), width, 1)
        self.down = nn.Conv2d(width, 2 * width, 4, 2, 1)
        bottleneck = [PlainResidual(2 * width), PlainResidual(2 * width)]
        if attention:
            bottleneck.insert(attention.after, attention.made(2 * width, side // 2))
        self.bottleneck = nn.Sequential(*bottleneck)
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.gate = AttentionGate(width)
        self.fuse = nn.Conv2d(2 * width, width, 3, 1, 1)
        self.head = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.known_zeros = tuple(f"gate.{zero}" for zero in self.gate.known_zeros)

    def forward(self, x: Tensor) -> Tensor:
        skip = leaky_relu(self.stem(self.told(x)), 0.2)
        deeper = self.bottleneck(leaky_relu(self.down(skip), 0.2))
        deeper = leaky_relu(self.up(deeper), 0.2)
        both = torch.cat([deeper, self.gate(deeper, skip)], 1)
        return self.head(leaky_relu(self.fuse(both), 0.2))


@dataclass(frozen=True)
class GatedSpec:
    """Which `GatedMap` a method has: its place code and its attention, if any."""

    place: type[nn.Module] | None = None
    attention: AttentionSpec | None = None

    def made(self, channels: int, width: int, side: int) -> GatedMap:
        """The map over so many channels and side x side places."""
        return GatedMap(channels, width, side, self.place, self.attention)
