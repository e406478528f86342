"""Brainomaly's additive map (see `brainomaly`) in a space of features instead of pixels.

Not in the thesis. The features are those of a network that has only seen photographs, whitened by
the known normals: what is common among them is small there, what is rare is large.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch, flipped
from nblib.methods.losses import wasserstein
from nblib.methods.method import Detection
from nblib.methods.pretrained import Pretrained, widths
from nblib.methods.sagan_features import GatedSpec

SHRINKAGE = 0.1
"""How far a covariance of features is drawn towards the identity before it is inverted."""

SIDE = 7
"""Places along a side of a map of features."""

LEVELS = "fine", "middle", "coarse"
"""The three depths, as the scores of each are called."""


class Whitening(nn.Module):
    """Encodings (B, c, h, w), whitened by places of known normals; as they are before `fit`.

    Each channel is given mean 0 and deviation 1 over the places of known normals, and those of each
    depth are then multiplied by S^-1/2, S = 0.9 covariance + 0.1 I. depths: channels of each.
    """

    def __init__(self, depths: tuple[int, ...]):
        super().__init__()
        self.depths = depths
        self.register_buffer("mean", torch.zeros(sum(depths)))
        self.register_buffer("root", torch.eye(sum(depths)))

    def fit(self, normal: Tensor) -> None:
        """From encodings (n, c, h, w) of known normals."""
        places = normal.transpose(0, 1).flatten(1).double()
        mean, deviation = places.mean(1), places.std(1).clamp_min(1e-6)
        z = (places - mean[:, None]) / deviation[:, None]
        roots = []
        for depth in z.split(self.depths):
            covariance = torch.cov(depth, correction=0) * (1 - SHRINKAGE)
            covariance += SHRINKAGE * torch.eye(len(depth), device=z.device, dtype=z.dtype)
            values, vectors = torch.linalg.eigh(covariance)
            roots.append(vectors / values.sqrt() @ vectors.T)
        self.mean.copy_(mean)
        self.root.copy_(torch.block_diag(*roots) / deviation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", self.root, x - self.mean[:, None, None])


class PatchFisher(Pretrained):
    """The closed-form twin of `BrainomalyFeatures`: Fisher's direction, at each place.

    In whitened features it is the difference between the mean of the mix and that of the known
    normals; each depth counts with the deviation 1 that it has along it over places of known
    normals. The score is the mean over places, the map what of it is above 0. Beside it the mean
    without its sign, and that of each depth alone.
    """

    needs = ("normal", "unlabeled")
    side = SIDE

    def __init__(
        self, model: str = "tf_efficientnet_lite0", pixels: int = 224, enlarge: bool = False
    ):
        super().__init__(model, pixels, enlarge)
        self.white = Whitening(widths(model))

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        self.white.fit(normal)
        known, mix = self.white(normal), self.white(unlabeled)
        difference = mix.mean((0, 2, 3)) - known.mean((0, 2, 3))
        depths = self.white.depths
        weights = [
            w / (w[:, None, None] * of).sum(1).std().clamp_min(1e-6)
            for w, of in zip(difference.split(depths), known.split(depths, 1), strict=True)
        ]
        self.keep(weight=torch.cat(weights))

    def detect(self, x: Tensor) -> Detection:
        weighted = self.white(x) * self.weight[:, None, None]
        along = weighted.sum(1)
        scores = {"along": along.mean((1, 2)), "unsigned": along.abs().mean((1, 2))}
        depths = weighted.split(self.white.depths, 1)
        scores |= {level: w.sum(1).mean((1, 2)) for level, w in zip(LEVELS, depths, strict=True)}
        return Detection(scores, along.clamp_min(0))


class PlaceCritic(nn.Module):
    """(B, c, h, w) -> a score (B,): 1x1, 3x3 and 1x1 convolutions, averaged over places."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.last = nn.Conv2d(width, 1, 1, bias=False)  # a constant, which the loss cancels

    def forward(self, x: Tensor) -> Tensor:
        # In single precision, as `layers.Critic`; on the meta device there is no autocast.
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            h = leaky_relu(self.first(x.float()), 0.2)
            return self.last(leaky_relu(self.second(h), 0.2)).mean((1, 2, 3))


def plain_map(channels: int, width: int) -> nn.Sequential:
    """G of three convolutions (B, channels, h, w) -> the same, which begins as zero."""
    last = nn.Conv2d(width, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(channels, width, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 3, 1, 1),
        nn.LeakyReLU(0.2),
        last,
    )


class BrainomalyFeatures(Pretrained):
    """x' = x + G(x) on whitened features; the score is the mean of |G(x)|, the map its mean over
    channels.

    G begins as zero. Beside the score stands that of the channels of each depth alone.

    model, pixels, enlarge: see `Pretrained`; side: places along a side of its maps; gated: SAGAN's
    generator as G, in place of three convolutions; width: channels of both networks inside;
    lambda_id: weight of |G(n)| of known normals n (nothing is asked of the mix); lambda_gp: of the
    gradient penalty; flips: whether features are mirrored at random; lr: Adam's rate; steps: critic
    steps, two for each of G; decay: see `loop.rate_factor`.
    """

    needs = ("normal", "unlabeled")

    def __init__(
        self,
        model: str = "tf_efficientnet_lite0",
        pixels: int = 224,
        enlarge: bool = False,
        side: int = SIDE,
        gated: GatedSpec | None = None,
        width: int = 64,
        lambda_id: float = 10.0,
        lambda_gp: float = 10.0,
        flips: bool = True,
        lr: float = 2e-4,
        batch_size: int = 16,
        steps: int = 500,
        decay: float = 1.0,
    ):
        super().__init__(model, pixels, enlarge)
        self.side = side
        self.white = Whitening(widths(model))
        channels = sum(self.white.depths)
        self.G = gated.made(channels, width, side) if gated else plain_map(channels, width)
        self.known_zeros = tuple(f"G.{zero}" for zero in getattr(self.G, "known_zeros", ()))
        self.D = PlaceCritic(channels, width)
        self.lambda_id, self.lambda_gp, self.flips = lambda_id, lambda_gp, flips
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        self.white.fit(normal)

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.9)),
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.9)),
        }

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        images = (flipped(x) if self.flips else x for x in (batch.normal, batch.unlabeled))
        n, u = (self.white(x).float() for x in images)
        with torch.no_grad():
            healthy = u + self.G(u).float()
        yield "D", wasserstein(self.D, n, healthy, self.lambda_gp)
        if step % 2:
            yield "G", self.generator_terms(n, u)

    def generator_terms(self, n: Tensor, u: Tensor) -> dict[str, Tensor]:
        """-D(u + G(u)) + lambda_id |G(n)|."""
        of_u, of_n = self.G(torch.cat([u, n])).float().chunk(2)
        return {
            "adversarial": -self.D(u + of_u).mean(),
            "identity": self.lambda_id * of_n.abs().mean(),
        }

    def detect(self, x: Tensor) -> Detection:
        change = self.G(self.white(x)).float().abs()
        depths = change.split(self.white.depths, 1)
        scores = {"change": change.mean((1, 2, 3))}
        scores |= {level: of.mean((1, 2, 3)) for level, of in zip(LEVELS, depths, strict=True)}
        return Detection(scores, change.mean(1))
