"""The parts that generators and critics are made of.

Convolutions before a norm have no bias unless a paper's layer table gives one. Instance norm
always uses the statistics of the image itself, in training and in scoring.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def instance_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Instance norm, written as group norm of one channel a group: the same, faster on CPUs."""
    return nn.GroupNorm(channels, channels, affine=affine)


def conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, instance norm, ReLU. Stride 1 keeps the size, stride 2 halves it."""
    padding = kernel // 2 if stride == 1 else 1
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, padding, bias=False),
        instance_norm(cout),
        nn.ReLU(inplace=True),
    )


def up(cin: int, cout: int) -> nn.Sequential:
    """4x4 transposed convolution that doubles the size, instance norm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(cin, cout, 4, 2, 1, bias=False),
        instance_norm(cout),
        nn.ReLU(inplace=True),
    )


def bn_down(cin: int, cout: int, kernel: int = 4, norm: bool = True) -> nn.Sequential:
    """Convolution that halves the size, batch norm, LeakyReLU 0.2."""
    halve = nn.Conv2d(cin, cout, kernel, 2, (kernel - 1) // 2, bias=False)
    norms = [nn.BatchNorm2d(cout)] if norm else []
    return nn.Sequential(halve, *norms, nn.LeakyReLU(0.2, inplace=True))


def bn_up(cin: int, cout: int, kernel: int = 4) -> nn.Sequential:
    """Transposed convolution that doubles the size, batch norm, ReLU."""
    double = nn.ConvTranspose2d(
        cin, cout, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2, bias=False
    )
    return nn.Sequential(double, nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


def _doublings(size: int) -> int:
    """How often 4 pixels are doubled to make `size`; raises ValueError where no number does."""
    if size < 16 or size & (size - 1):
        raise ValueError(
            f"This network halves images down to 4 x 4: the size must be 16, 32, 64, 128, ...; "
            f"got {size}."
        )
    return size.bit_length() - 3


def dcgan_trunk(size: int, channels: int, width: int, first_norm: bool = False) -> nn.Sequential:
    """(B, C, size, size) -> (B, width * size / 8, 4, 4): half the size, twice the channels.

    Radford et al. 2016: 4x4 convolutions without bias, batch norm in all but the first.
    Raises ValueError for a size that is no power of two or below 16.
    """
    widths = [width * 2**i for i in range(_doublings(size))]
    first = bn_down(channels, width, norm=first_norm)
    return nn.Sequential(first, *(bn_down(c // 2, c) for c in widths[1:]))


def dcgan_generator(size: int, channels: int, width: int, latent: int) -> nn.Sequential:
    """(B, latent, 1, 1) -> (B, C, size, size) in (-1, 1): the mirror of `dcgan_trunk`."""
    widths = [width * 2**i for i in reversed(range(_doublings(size)))]
    first = nn.ConvTranspose2d(latent, widths[0], 4, 1, 0, bias=False)
    return nn.Sequential(
        nn.Sequential(first, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)),
        *(bn_up(2 * c, c) for c in widths[1:]),
        nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def dcgan_weights(module: nn.Module) -> None:
    """For `network.apply`: convolutions ~ N(0, 0.02^2), batch norm's scale ~ N(1, 0.02^2)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)


def pad(network: nn.Module, mode: str) -> None:
    """Pad every convolution of a network by 'circular' or 'reflect' in place of zeros.

    Zeros tell a network where the image ends, and so where things lie; a circular image has no end.
    Of transposed convolutions, which know zeros only, the 4x4 ones of `up` are meant.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.ConvTranspose2d):
            setattr(network, name, PaddedUp(child, mode))
        elif isinstance(child, nn.Conv2d):
            child.padding_mode = mode
        else:
            pad(child, mode)


class PaddedUp(nn.Module):
    """A 4x4 transposed convolution that doubles the size, padded by hand and cropped."""

    def __init__(self, conv: nn.ConvTranspose2d, mode: str):
        super().__init__()
        self.conv, self.mode = conv, mode

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (1, 1, 1, 1), self.mode))[..., 2:-2, 2:-2]


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), 3x3."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = conv(channels, channels, 3)
        self.outer = nn.Sequential(*conv(channels, channels, 3)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x))


class Fuse(nn.Module):
    """h = relu(norm(conv(x))), then h + norm(conv(h)), 3x3: fewer channels out than in."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.inner = conv(cin, cout, 3)
        self.outer = nn.Sequential(*conv(cout, cout, 3)[:2])

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return h + self.outer(h)


def codes(place: nn.Module, x: Tensor) -> Tensor:
    """What a place part says beside each of the maps x (images * patches, C, h, w), image-major."""
    code = place(*x.shape[-2:]).to(x.dtype)
    return code.repeat(len(x) // len(code), 1, 1, 1)


class Concatenated(nn.Module):
    """The code of a place part (see `encodings`) as further channels of a map."""

    def __init__(self, place: nn.Module):
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, codes(self.place, x)], 1)


class Added(nn.Module):
    """The code of a place part, which has as many channels as the map, added to it."""

    def __init__(self, place: nn.Module):
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return x + codes(self.place, x)


class Placed(nn.Module):
    """Concatenate a place part to the features of patches, mix by a 1x1 convolution, norm, ReLU.

    As published: the instance norm behind the convolution subtracts whatever is constant over a
    patch, so that a place code that is constant cannot act.

    x: (images * patches, C, h, w), image-major, as `cut` makes it. place: see `encodings`, or
    None for the convolution without any code.
    """

    known_zeros = ("mix.bias", "code.place.vectors")
    """What the norm subtracts: the bias, and a learned code, which is constant over a patch."""

    def __init__(self, channels: int, place: nn.Module | None):
        super().__init__()
        self.code = Concatenated(place) if place else nn.Identity()
        self.mix = nn.Conv2d(channels + (place.channels if place else 0), channels, 1)
        self.norm = instance_norm(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.mix(self.code(x))))


class PlacedBehindNorm(Placed):
    """As `Placed`, but the norm stands before the code, and none behind it: the code acts."""

    known_zeros = ()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.mix(self.code(self.norm(x))))


class AttentionGate(nn.Module):
    """What a skip lets through: skip * alpha, alpha in (0, 1) for every pixel (thesis, eq. 2.21).

    The one-channel map under the sigmoid is normalised per patch, so that alpha is about 0.5 on
    average in every patch: the gate cannot be closed as a whole.

    deeper, skip: (B, C, h, w), of the same shape.
    """

    known_zeros = ("of_deeper.0.bias", "of_skip.0.bias", "to_map.0.bias")
    """Biases that the norm behind them subtracts."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.of_deeper = nn.Sequential(nn.Conv2d(channels, half, 1), instance_norm(half, False))
        self.of_skip = nn.Sequential(nn.Conv2d(channels, half, 1), instance_norm(half, False))
        self.to_map = nn.Sequential(nn.Conv2d(half, 1, 1), instance_norm(1, False))

    def attention(self, deeper: Tensor, skip: Tensor) -> Tensor:
        """alpha (B, 1, h, w)."""
        return self.to_map(torch.relu(self.of_deeper(deeper) + self.of_skip(skip))).sigmoid()

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        return skip * self.attention(deeper, skip)


class OpenGate(nn.Module):
    """No gate: alpha is 1 everywhere, the skip passes whole."""

    def __init__(self, channels: int):
        super().__init__()

    def attention(self, deeper: Tensor, skip: Tensor) -> Tensor:
        return torch.ones_like(skip[:, :1])

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        return skip


class ClosedGate(nn.Module):
    """No skip: alpha is 0 everywhere."""

    def __init__(self, channels: int):
        super().__init__()

    def attention(self, deeper: Tensor, skip: Tensor) -> Tensor:
        return torch.zeros_like(skip[:, :1])

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        return torch.zeros_like(skip)


class Translator(nn.Module):
    """The generator of StarGAN, HealthyGAN and Brainomaly: (B, C, H, W) -> raw (B, outputs, H, W).

    A 7x7 convolution, two that halve the size, residual blocks, two that double it, a 7x7 head.
    H and W must be multiples of 4.
    """

    def __init__(self, channels: int, outputs: int, width: int = 64, blocks: int = 6):
        super().__init__()
        self.layers = nn.Sequential(
            conv(channels, width, 7),
            conv(width, 2 * width, 4, 2),
            conv(2 * width, 4 * width, 4, 2),
            *(Residual(4 * width) for _ in range(blocks)),
            up(4 * width, 2 * width),
            up(2 * width, width),
            nn.Conv2d(width, outputs, 7, 1, 3, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def cut(x: Tensor, grid: int) -> Tensor:
    """(B, C, H, W) -> (B * grid * grid, C, H / grid, W / grid): patches, image-major, row-major."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, grid, h // grid, grid, w // grid)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // grid, w // grid)


def paste(x: Tensor, grid: int) -> Tensor:
    """The inverse of `cut`."""
    n, c, h, w = x.shape
    x = x.reshape(n // grid**2, grid, grid, c, h, w)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, c, grid * h, grid * w)


class LeakyReLU(nn.Module):
    """x * slope where x < 0, else x, as a product with a mask that carries no graph.

    The same values and gradients as torch's; but the gradient penalty differentiates twice, and
    torch's double backward sends zeros through the whole first pass, which this one spares.
    """

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x.detach() < 0, self.slope, 1.0)


class Critic(nn.Module):
    """The critic of HealthyGAN, Brainomaly and SAGAN: (B, C, size, size) -> (B, 1, h, h).

    `n_layers` 4x4 convolutions of stride 2, `width` channels doubling at each, no norm; a 3x3
    head without bias. h = size / 2**n_layers: at six layers and 64 pixels it is 1, a critic of
    the whole image; four layers make a true patch critic (h = 4).

    place: a place part in its whole-image form (`encodings.Whole`), concatenated to the maps
    between the layers whose side is a multiple of its grid, and at least 2; added: one with `width`
    channels, added to the first layer's output.

    It runs in single precision whatever region of autocast it is called in: with bfloat16 its
    losses blew up. Kaiming's initialisation, for with PyTorch's a narrow critic does not start.
    Raises ValueError where the size is too small for `n_layers`.
    """

    def __init__(
        self,
        size: int,
        channels: int = 1,
        width: int = 64,
        n_layers: int = 6,
        place: nn.Module | None = None,
        added: nn.Module | None = None,
    ):
        super().__init__()
        if size < 2**n_layers:
            raise ValueError(
                f"A critic of {n_layers} layers needs images of at least {2**n_layers} pixels; "
                f"got {size}. At this size at most {int(math.log2(size))} layers are possible."
            )
        layers, cin = [], channels
        for i in range(n_layers):
            layers += [nn.Conv2d(cin, width * 2**i, 4, 2, 1), LeakyReLU(0.01)]
            cin = width * 2**i
            if added and i == 0:
                layers.append(Added(added))
            side = size // 2 ** (i + 1)
            if place and side >= 2 and side % place.grid == 0:
                layers.append(Concatenated(place))
                cin += place.channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(cin, 1, 3, 1, 1, bias=False))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        # On the meta device, where costs are counted, there is no autocast.
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            return self.layers(x.float())
