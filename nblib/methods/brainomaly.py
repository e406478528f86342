"""Brainomaly (Rahman Siddiquee et al., WACV 2024; thesis, section 2.4.6): an additive map.

G translates an image to a healthy one by adding a map to it; it learns from known normals and
from an unlabeled mix.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch, flipped
from nblib.methods.layers import Critic, Translator
from nblib.methods.losses import wasserstein
from nblib.methods.method import Detection, Method, residual


class Brainomaly(Method):
    """Brainomaly; see the notebook 21_brainomaly.

    size, channels: of the images, size a multiple of 4; width: channels of the generator's first
    layer; critic_width, critic_layers: see `layers.Critic` (None: as wide as the generator);
    lambda_id, lambda_gp: weights of the losses; flips: whether training images are mirrored at
    random; lr: Adam's rate; steps: critic steps, two for each of the generator; decay: see
    `loop.rate_factor`.
    """

    needs = ("normal", "unlabeled")
    at_budget = dict(quick=dict(lambda_id=10.0))

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        critic_width: int | None = None,
        critic_layers: int = 6,
        lambda_id: float = 1.0,
        lambda_gp: float = 10.0,
        flips: bool = True,
        lr: float = 1e-4,
        batch_size: int = 16,
        steps: int = 200_000,
        decay: float = 1.0,
    ):
        super().__init__()
        if size % 4:
            raise ValueError(f"Brainomaly needs an image size that is a multiple of 4; got {size}.")
        self.G = Translator(channels, channels, width)
        self.D = Critic(size, channels, critic_width or width, critic_layers)
        self.lambda_id, self.lambda_gp, self.flips = lambda_id, lambda_gp, flips
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.999)),
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.999)),
        }

    def healthy(self, x: Tensor) -> Tensor:
        """x' = tanh(x + G(x)), in (-1, 1)."""
        return torch.tanh(x + self.G(x).float())

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        n, u = (flipped(x) if self.flips else x for x in (batch.normal, batch.unlabeled))
        with torch.no_grad():
            healthy = self.healthy(u)
        yield "D", wasserstein(self.D, n, healthy, self.lambda_gp)
        if step % 2:
            yield "G", self.generator_terms(n, u)

    def generator_terms(self, n: Tensor, u: Tensor) -> dict[str, Tensor]:
        """Thesis, eq. 2.19: -D(U') + lambda_id |N - N'| (its eq. 2.16 lacks the minus)."""
        u_healthy, n_healthy = self.healthy(torch.cat([u, n])).chunk(2)
        return {
            "adversarial": -self.D(u_healthy).mean(),
            "identity": self.lambda_id * (n - n_healthy).abs().mean(),
        }

    def detect(self, x: Tensor) -> Detection:
        return residual(x, self.healthy(x))
