"""ALOCC (Sabokrou et al., CVPR 2018): a denoiser R and a discriminator D, one class.

R learns to take noise off normal images, D to tell R's images from real ones. R then restores what
is normal and distorts what is not, and D tells.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from nblib.data.batches import Batch
from nblib.methods.layers import bn_down, bn_up
from nblib.methods.losses import as_generated, as_real
from nblib.methods.method import Detection, Method


class Refiner(nn.Module):
    """R: x (B, C, H, W) -> x' in (-1, 1), convolutions only, down to an eighth and up again."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            bn_down(channels, 2 * width, 5),
            bn_down(2 * width, 4 * width, 5),
            bn_down(4 * width, 8 * width, 5),
            bn_up(8 * width, 2 * width, 5),
            bn_up(2 * width, width, 5),
            nn.ConvTranspose2d(width, channels, 5, 2, 2, output_padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ALOCC(Method):
    """ALOCC; see the notebook 12_alocc.

    size, channels: of the images, size a multiple of 16; width: channels of D's first layer;
    noise: deviation of the noise that R takes off; lambda_r: weight of the reconstruction; rho:
    training stops when the mean squared error on held-out normals falls below (0: never; its
    value is where that error levels off on the phantom, set once); lr: RMSprop's rate; steps: one
    update of D and R each; decay: see `loop.rate_factor`.
    Raises ValueError for a size that cannot be halved four times.
    """

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        noise: float = 0.155,
        lambda_r: float = 0.4,
        rho: float = 0.015,
        lr: float = 2e-4,
        batch_size: int = 128,
        steps: int = 30_000,
        decay: float = 1.0,
    ):
        super().__init__()
        if size % 16 or size < 16:
            raise ValueError(f"ALOCC halves images four times: 16, 32, 48, 64, ...; got {size}.")
        self.R = Refiner(channels, width)
        self.D = nn.Sequential(
            bn_down(channels, width, 5, norm=False),
            bn_down(width, 2 * width, 5),
            bn_down(2 * width, 4 * width, 5),
            bn_down(4 * width, 8 * width, 5),
            nn.Flatten(),
            nn.Linear(8 * width * (size // 16) ** 2, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.02)
        self.noise, self.lambda_r, self.rho = noise, lambda_r, rho
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": RMSprop(self.D.parameters(), self.lr),
            "R": RMSprop(self.R.parameters(), self.lr),
        }

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        x = batch.normal
        noisy = (x + self.noise * torch.randn_like(x)).clamp(-1, 1)
        restored = self.R(noisy)
        yield (
            "D",
            {
                "real": as_real(self.D(x)),
                "generated": as_generated(self.D(restored.detach())),
            },
        )
        yield (
            "R",
            {
                "adversarial": as_real(self.D(restored)),
                "reconstruction": self.lambda_r * (x - restored).float().square().mean(),
            },
        )

    def enough(self, held_out: Tensor) -> bool:
        return bool((held_out - self.R(held_out)).square().mean() < self.rho)

    def detect(self, x: Tensor) -> Detection:
        restored = self.R(x)
        map = (x - restored).abs().mean(1) / 2
        scores = {
            "OCC2": -self.D(restored).squeeze(1),
            "OCC1": -self.D(x).squeeze(1),
            "residual": map.mean((1, 2)),
        }
        return Detection(scores, map, restored)
