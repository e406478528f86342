"""SAGAN: spatial-aware attention GAN (Zhang et al., MICCAI 2024; thesis, section 2.4.7).

A generator G translates an image to a healthy one, x' = tanh(r + x); what it changes is the heat
map. It learns from known normals N, from an unlabeled mix U, and from pseudo-anomalies P made of
N. Written from the paper's description and a table of layers; the authors' code has no licence.

In order: encoder, decoder, generator, losses. The thesis' variants are the same classes with other
parts in the slots place, placed, added, attention, gate, encoder, decoder.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch
from nblib.methods.encodings import AttentionSpec, BinaryCode, Whole
from nblib.methods.layers import (
    Added,
    AttentionGate,
    Critic,
    Fuse,
    Placed,
    Residual,
    conv,
    cut,
    pad,
    paste,
    up,
)
from nblib.methods.losses import wasserstein
from nblib.methods.method import Detection, Method, residual


class ConvEncoder(nn.Module):
    """(B, C, h, w) -> three maps at strides 2, 4, 8 with 2, 4, 8 x width channels.

    The maps at strides 2 and 4 are told their place before they go on and into the skips (thesis,
    eq. 2.20). `added` is a place part that is added to the first layer's output.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        size: int,
        place: nn.Module | None,
        placed: type[nn.Module],
        added: nn.Module | None,
    ):
        super().__init__()
        self.stem = conv(channels, width, 7)
        self.embed = Added(added) if added else nn.Identity()
        self.down1, self.place1 = conv(width, 2 * width, 4, 2), placed(2 * width, place)
        self.down2, self.place2 = conv(2 * width, 4 * width, 4, 2), placed(4 * width, place)
        self.down3 = conv(4 * width, 8 * width, 4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s1 = self.place1(self.down1(self.embed(self.stem(x))))
        s2 = self.place2(self.down2(s1))
        return s1, s2, self.down3(s2)


class Decoder(nn.Module):
    """The bottleneck's map e and the skips s1, s2 -> the raw change r at full size.

    At each scale the gate filters the skip by the deeper map (thesis, eq. 2.21 and 2.22); the
    first gate filters the bottleneck's map by itself. Maps of all scales are fused at the end.

    fuse, up: called with the channels in and out, make what fuses a map with its skip and what
    doubles a map's size.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        gate: type[nn.Module],
        fuse: Callable[[int, int], nn.Module],
        up: Callable[[int, int], nn.Module],
    ):
        super().__init__()
        self.gate1, self.fuse1 = gate(8 * width), fuse(16 * width, 8 * width)
        self.up1 = up(8 * width, 4 * width)
        self.gate2, self.fuse2 = gate(4 * width), fuse(8 * width, 4 * width)
        self.up2 = up(4 * width, 2 * width)
        self.gate3, self.fuse3 = gate(2 * width), fuse(4 * width, 2 * width)
        self.up3 = up(2 * width, width)
        self.widen1 = nn.Sequential(up(4 * width, 2 * width), up(2 * width, width))
        self.widen2 = up(2 * width, width)
        self.fuse = Fuse(3 * width, width)
        self.head = nn.Conv2d(width, channels, 7, 1, 3, bias=False)

    def forward(self, e: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
        o1 = self.up1(self.fuse1(torch.cat([e, self.gate1(e, e)], 1)))
        o2 = self.up2(self.fuse2(torch.cat([o1, self.gate2(o1, s2)], 1)))
        o3 = self.up3(self.fuse3(torch.cat([o2, self.gate3(o2, s1)], 1)))
        return self.head(self.fuse(torch.cat([self.widen1(o1), self.widen2(o2), o3], 1)))


def conv_decoder(channels: int, width: int, size: int, gate: type[nn.Module]) -> Decoder:
    """The published decoder: it fuses and doubles by convolutions."""
    return Decoder(channels, width, gate, Fuse, up)


class Generator(nn.Module):
    """x (B, C, size, size) in [-1, 1] -> the healthy image x' in (-1, 1).

    The image is cut into grid x grid patches, which pass through the network apart and are pasted
    together again. In training 5 % of the pixels of r are replaced by the input.

    place, added: classes of `encodings`, or None: what `place` says is concatenated to the maps, in
    the way of `placed` (`layers.Placed`, as published, or `layers.PlacedBehindNorm`); what `added`
    says is added to the first layer's output. attention: of the bottleneck, if there is one; gate:
    a class called with the channels of a skip; encoder, decoder: see `ConvEncoder` and
    `conv_decoder`; padding: of the convolutions, 'zeros', 'circular' or 'reflect'.
    Raises ValueError for a size that cannot be cut and halved three times, and for such images.
    """

    blocks = 6
    """Residual blocks of the bottleneck."""

    keep = 0.95
    """Share of r's pixels that is kept in training (the authors' random mask)."""

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        grid: int = 2,
        place: type[nn.Module] | None = BinaryCode,
        placed: type[nn.Module] = Placed,
        added: type[nn.Module] | None = None,
        attention: AttentionSpec | None = None,
        gate: type[nn.Module] = AttentionGate,
        encoder: Callable[..., nn.Module] = ConvEncoder,
        decoder: Callable[..., nn.Module] = conv_decoder,
        padding: str = "zeros",
    ):
        super().__init__()
        step = 8 * grid
        if size % step or size < 2 * step:
            raise ValueError(
                f"SAGAN with {grid} x {grid} patches needs an image size that is a multiple of "
                f"{step} and at least {2 * step} ({2 * step}, {3 * step}, {4 * step}, ...); "
                f"got {size}."
            )
        self.grid, patch = grid, size // grid
        code = place(grid) if place else None
        first = added(grid, width) if added else None
        self.encoder = encoder(channels, width, patch, code, placed, first)
        bottleneck = [Residual(8 * width) for _ in range(self.blocks)]
        if attention:
            if not 0 <= attention.after <= self.blocks:
                raise ValueError(
                    f"There are {self.blocks} residual blocks: attention cannot stand behind "
                    f"{attention.after} of them."
                )
            bottleneck.insert(attention.after, attention.made(8 * width, patch // 8))
        self.bottleneck = nn.Sequential(placed(8 * width, code), *bottleneck)
        self.decoder = decoder(channels, width, patch, gate)
        if padding != "zeros":
            pad(self, padding)

    def forward(self, x: Tensor) -> Tensor:
        step, (height, width) = 8 * self.grid, x.shape[-2:]
        if height % step or width % step:
            raise ValueError(f"Sides must be multiples of {step}; got {height}, {width}.")
        s1, s2, s3 = self.encoder(cut(x, self.grid))
        r = paste(self.decoder(self.bottleneck(s3), s1, s2), self.grid)
        if self.training:
            kept = torch.rand_like(x[:, :1]) < self.keep
            r = torch.where(kept, r, x)
        return torch.tanh(r + x)


class SAGAN(Method):
    """SAGAN as published; see the notebook 22_sagan. The thesis' variants and the controls of the
    comparison are SAGAN with other parts (see the catalogue).

    size, channels: of the images; width: channels of the generator's first layer; grid: patches
    along each side; place, placed, added, attention, gate, encoder, decoder, padding: see
    `Generator`;
    critic_place: the place part of the critic, if it has one, which is also told `added`;
    critic_width, critic_layers: see `layers.Critic` (None: as wide as the generator); needs: what
    it learns from. Without pseudo-anomalies there is no reconstruction term; without the unlabeled
    mix the known normals are what is made healthy for the critic.
    lambda_id, lambda_rec, lambda_gp: weights of the losses; lr: Adam's rate; steps: critic steps,
    two for each of the generator; decay: factor on the rate at the end of training, see
    `loop.rate_factor`.
    """

    needs = ("normal", "unlabeled", "pseudo")
    at_budget = dict(quick=dict(lambda_id=10.0, lambda_rec=10.0))

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        grid: int = 2,
        place: type[nn.Module] | None = BinaryCode,
        placed: type[nn.Module] = Placed,
        added: type[nn.Module] | None = None,
        attention: AttentionSpec | None = None,
        gate: type[nn.Module] = AttentionGate,
        encoder: Callable[..., nn.Module] = ConvEncoder,
        decoder: Callable[..., nn.Module] = conv_decoder,
        padding: str = "zeros",
        critic_place: type[nn.Module] | None = None,
        critic_width: int | None = None,
        critic_layers: int = 6,
        needs: tuple[str, ...] = needs,
        lambda_id: float = 1.0,
        lambda_rec: float = 1.0,
        lambda_gp: float = 10.0,
        lr: float = 5e-5,
        batch_size: int = 32,
        steps: int = 100_000,
        decay: float = 1.0,
    ):
        super().__init__()
        self.G = Generator(
            size, channels, width, grid, place, placed, added, attention, gate, encoder, decoder,
            padding,
        )  # fmt: skip
        critic_width = critic_width or width
        self.D = Critic(
            size, channels, critic_width, critic_layers,
            Whole(critic_place(grid)) if critic_place else None,
            Whole(added(grid, critic_width)) if added else None,
        )  # fmt: skip
        self.known_zeros = tuple(
            f"{name}.{zero}"
            for name, module in self.G.named_modules()
            for zero in getattr(module, "known_zeros", ())
        )
        self.needs = tuple(needs)
        self.lambda_id, self.lambda_rec, self.lambda_gp = lambda_id, lambda_rec, lambda_gp
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.999)),
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.999)),
        }

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield "D", self.critic_terms(batch)
        if step % 2:
            yield "G", self.generator_terms(batch)

    def critic_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Thesis, eq. 2.27: D(U') - D(N) + lambda_gp (|grad D(x)|_2 - 1)^2, x between U' and N."""
        healthy = self.healthy(batch.unlabeled if "unlabeled" in self.needs else batch.normal)
        return wasserstein(self.D, batch.normal, healthy, self.lambda_gp)

    @torch.no_grad()
    def healthy(self, x: Tensor) -> Tensor:
        """x' without graph: what the critic is shown as generated."""
        return self.G(x).float()

    def generator_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Thesis, eq. 2.26: -D(U') + lambda_id |N - N'| + lambda_rec (N - P')^2.

        Means over pixels; the thesis' eq. 2.24 prints an unsquared norm, the authors take squares.
        """
        used = {what: x for what, x in batch._asdict().items() if what in self.needs}
        restored = self.G(torch.cat(list(used.values()))).float().split(len(batch.normal))
        restored = dict(zip(used, restored, strict=True))
        n, n_healthy = batch.normal, restored["normal"]
        terms = {
            "adversarial": -self.D(restored.get("unlabeled", n_healthy)).mean(),
            "identity": self.lambda_id * (n - n_healthy).abs().mean(),
        }
        if "pseudo" in restored:
            error = (n - restored["pseudo"]).square().mean()
            terms["reconstruction"] = self.lambda_rec * error
        return terms

    def detect(self, x: Tensor) -> Detection:
        return residual(x, self.G(x))

    def gate_maps(self, x: Tensor) -> list[Tensor]:
        """How far each attention gate opens: (B, h, w) in (0, 1), deepest gate first."""
        maps = []

        def note(gate, inputs, output):
            maps.append(paste(gate.attention(*inputs), self.G.grid).mean(1))

        gates = [self.G.decoder.gate1, self.G.decoder.gate2, self.G.decoder.gate3]
        hooks = [gate.register_forward_hook(note) for gate in gates]
        try:
            self.G(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps
