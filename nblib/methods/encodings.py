"""What a network is told about places, each part usable alone.

A place part, made from a grid and a number of channels, is concatenated, or added, to feature maps.
It answers `place(h, w) -> (patches, channels, h, w)` for an image that is cut into grid x grid
patches of h x w, in the order of `layers.cut`.

    BinaryCode      the patch's number in bits, constant over the patch (SAGAN)
    Sinusoidal2d    sines and cosines of x and of y, running on from patch to patch
    LearnedPlace    a learned vector a patch, constant over the patch
    Whole           any of these as a map sees it that is not cut
    Swapped         any of these, but each patch hears the code of the opposite one

A position part says what attention knows of places. It answers `position(q, k, h, w) -> q, k, bias`
for queries and keys (B, heads, h * w, channels of a head) of a map's places in rows; the bias, or
None, is added to the scores.

    NoPosition      nothing: attention cannot tell places apart
    Rope2d          queries and keys rotated by x and by y
    Alibi2d         scores minus a slope times the Manhattan distance
    RelativeBias    scores plus a learned number for (dx, dy)

`Attention` is what they work in, `AttentionSpec` what a variant asks for. timm is imported where it
is used: that takes seconds.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from nblib.methods.layers import cut, paste


class BinaryCode(nn.Module):
    """The place code of SAGAN: a patch's number in binary, constant over the patch.

    The patches are numbered 0, 1, ... in floor(log2(patches)) + 1 bits, most significant first:
    000, 001, 010, 011 for 2 x 2. So the authors' code; the thesis' eq. 2.20 rounds up, which is the
    same for powers of two, and its example with two bits is a slip. How many `channels` are asked
    for plays no part.
    """

    def __init__(self, grid: int, channels: int | None = None):
        super().__init__()
        self.grid, patches = grid, grid**2
        self.channels = patches.bit_length()
        bits = range(self.channels - 1, -1, -1)
        code = torch.tensor([[p >> bit & 1 for bit in bits] for p in range(patches)])
        self.register_buffer("code", code.float(), persistent=False)

    def forward(self, h: int, w: int) -> Tensor:
        return self.code[:, :, None, None].expand(-1, -1, h, w)


class Sinusoidal2d(nn.Module):
    """Sines and cosines of a pixel's row and column in the whole map, at falling frequencies.

    Thesis, eq. 3.1 and 3.2, for each axis: a quarter of the channels each is sin(y f), sin(x f),
    cos(y f) and cos(x f), with f falling from 1 towards 1 / 10000 radians a pixel of this map.
    `amplitude` (1) scales it. Raises ValueError where the number of channels is no multiple of 4.
    """

    def __init__(self, grid: int, channels: int = 16):
        super().__init__()
        if channels % 4:
            raise ValueError(
                f"Sinusoids in two dimensions need a multiple of 4 channels; got {channels}."
            )
        self.grid, self.channels = grid, channels
        self.register_buffer("amplitude", torch.ones(()), persistent=False)

    def forward(self, h: int, w: int) -> Tensor:
        from timm.layers import build_sincos2d_pos_embed

        shape = (self.grid * h, self.grid * w)
        code = build_sincos2d_pos_embed(shape, self.channels, device=self.amplitude.device)
        return cut((self.amplitude * code.T).reshape(1, self.channels, *shape), self.grid)


class LearnedPlace(nn.Module):
    """A learned vector for each patch, constant over the patch; it starts at N(0, 1)."""

    def __init__(self, grid: int, channels: int = 16):
        super().__init__()
        self.grid, self.channels = grid, channels
        self.vectors = nn.Parameter(torch.randn(grid**2, channels))

    def forward(self, h: int, w: int) -> Tensor:
        return self.vectors[:, :, None, None].expand(-1, -1, h, w)


class Whole(nn.Module):
    """A place part as an uncut map sees it: (1, channels, h, w).

    Raises ValueError where h or w is no multiple of its grid.
    """

    def __init__(self, place: nn.Module):
        super().__init__()
        self.place, self.grid, self.channels = place, place.grid, place.channels

    def forward(self, h: int, w: int) -> Tensor:
        if h % self.grid or w % self.grid:
            raise ValueError(
                f"A map of {h} x {w} has no places for a grid of {self.grid} x {self.grid}: its "
                "sides must be multiples."
            )
        return paste(self.place(h // self.grid, w // self.grid), self.grid)


class Swapped(nn.Module):
    """A place part that tells each patch the code of the opposite one, to see what codes do."""

    def __init__(self, place: nn.Module):
        super().__init__()
        self.place, self.grid, self.channels = place, place.grid, place.channels

    def forward(self, h: int, w: int) -> Tensor:
        return self.place(h, w).flip(0)


class NoPosition(nn.Module):
    """Attention that is told nothing of places: permute the places of its input, and its output
    is permuted alike.

    heads: of the attention; dim: channels of a head; size: side of the maps it is trained on.
    """

    def __init__(self, heads: int, dim: int, size: int):
        super().__init__()

    def forward(self, q: Tensor, k: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, None]:
        return q, k, None


class Rope2d(nn.Module):
    """Rotary encoding in two dimensions (Su et al. 2021): scores see relative places alone.

    Pairs of channels of q and k are rotated, half of them by the row times f, half by the column
    times f, f falling from 1 towards 1 / 10000 radians a place. It works at any size. Raises
    ValueError where `dim` is no multiple of 4. Arguments: see `NoPosition`.
    """

    def __init__(self, heads: int, dim: int, size: int):
        super().__init__()
        from timm.layers import RotaryEmbeddingCat

        if dim % 4:
            raise ValueError(
                f"Rotary encoding in two dimensions needs 4, 8, 12, ... channels a head; got {dim}."
            )
        self.rotary = RotaryEmbeddingCat(dim, in_pixels=False, temperature=10_000)

    def forward(self, q: Tensor, k: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, None]:
        from timm.layers import apply_rot_embed_cat

        angles = self.rotary.get_embed((h, w))
        return apply_rot_embed_cat(q, angles), apply_rot_embed_cat(k, angles), None


class Alibi2d(nn.Module):
    """Attention with linear biases (Press et al. 2022) in two dimensions: thesis, eq. 3.3.

    The scores of head n of H lose m_n (|dx| + |dy|), m_n = 2^(-8 n / H), n = 1 ... H: no learned
    part, and any size works. Arguments: see `NoPosition`.
    """

    def __init__(self, heads: int, dim: int, size: int):
        super().__init__()
        slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, q: Tensor, k: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.arange(h, device=q.device).repeat_interleave(w)
        x = torch.arange(w, device=q.device).repeat(h)
        distance = (y[:, None] - y).abs() + (x[:, None] - x).abs()
        return q, k, -self.slopes[:, None, None] * distance


class RelativeBias(nn.Module):
    """A learned number a head for each (dx, dy), added to the scores: thesis, eq. 3.4.

    (2 size - 1)^2 entries a head, which start near 0. At another size than that of the training
    the table is interpolated, as timm does it. Arguments: see `NoPosition`.
    """

    def __init__(self, heads: int, dim: int, size: int):
        super().__init__()
        from timm.layers import RelPosBias

        self.lookup = RelPosBias((size, size), heads)

    def forward(self, q: Tensor, k: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
        lookup = self.lookup
        if (h, w) != lookup.window_size:
            lookup = copy.deepcopy(lookup)
            lookup.set_window_size((h, w))
        return q, k, lookup.get_bias()


class Attention(nn.Module):
    """Multi-head self-attention over the places of a map: x + dropout(norm(attention(x))).

    (B, channels, h, w) -> the same. softmax(q k^T / sqrt(d) + bias) v, heads of d = channels /
    heads, then a linear map and a layer norm over the channels. Queries and keys have no bias: that
    of the keys would do nothing.

    size: side of the maps it is trained on; position: a position part's class.
    Raises ValueError where the channels cannot be shared out among the heads.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        position: type[nn.Module] = NoPosition,
        heads: int = 8,
        dropout: float = 0.0,
    ):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared out among {heads} heads.")
        self.heads = heads
        self.position = position(heads, channels // heads, size)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.norm, self.dropout = nn.LayerNorm(channels), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        places = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(places).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, bias = self.position(q, k, h, w)
        bias = None if bias is None else bias.to(q.dtype)
        attended = f.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        attended = self.norm(self.out(attended.transpose(1, 2).reshape(b, h * w, c)))
        return x + self.dropout(attended).transpose(1, 2).view(b, c, h, w)


@dataclass(frozen=True)
class AttentionSpec:
    """Which `Attention` a generator has in its bottleneck, and behind how many residual blocks."""

    position: type[nn.Module] = NoPosition
    after: int = 0
    heads: int = 8
    dropout: float = 0.0

    def made(self, channels: int, size: int) -> Attention:
        """The attention over maps of so many channels and size x size places."""
        return Attention(channels, size, self.position, self.heads, self.dropout)


@torch.no_grad()
def similarity(place: nn.Module, h: int, w: int, at: tuple[int, int]) -> Tensor:
    """(h, w): how alike the code at row and column `at` of an image's map is to all its codes.

    1 - distance / largest distance: 1 for the same code, 0 for the one farthest off. h, w: of the
    whole map, multiples of the part's grid; it is cut and pasted as an image is.
    """
    code = Whole(place)(h, w)[0]
    distance = (code - code[:, at[0], at[1], None, None]).square().sum(0).sqrt()
    return 1 - distance / distance.max().clamp(min=1e-12)


@torch.no_grad()
def left_by_norm(place: nn.Module, h: int, w: int) -> Tensor:
    """(channels,): the share of the code's variance over an image that lies within its patches.

    A norm over each patch subtracts the rest. h, w: of the map of a patch; at least 2 x 2.
    """
    code = place(h, w)
    within = code.var((2, 3), correction=0).mean(0)
    return within / code.var((0, 2, 3), correction=0).clamp(min=1e-12)


@torch.no_grad()
def favoured(position: nn.Module, heads: int, dim: int, h: int, w: int, at: tuple[int, int]):
    """(heads, h, w): the scores of the place `at` with all places, from the encoding alone.

    That is, of equal queries and keys: with q = k = (1, ..., 1), q k^T / sqrt(dim) + bias.
    """
    q = torch.ones(1, heads, h * w, dim)
    q, k, bias = position(q, q, h, w)
    scores = q @ k.transpose(2, 3) / dim**0.5 + (0 if bias is None else bias)
    return scores[0, :, at[0] * w + at[1]].view(heads, h, w)
