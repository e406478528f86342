"""The smallest method with two optimisers, for the notebook that explains how a method trains.

SAGAN without all that makes it SAGAN: no patches, no codes, no gates, no pseudo-anomalies.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch
from nblib.methods.layers import Critic
from nblib.methods.losses import gradient_penalty
from nblib.methods.method import Detection, Method, residual


class Toy(Method):
    """Restore an image by two small convolutions, against a small critic."""

    needs = ("normal", "unlabeled")

    def __init__(self, steps: int = 60, batch_size: int = 8, lr: float = 1e-3, decay: float = 1.0):
        super().__init__()
        self.G = nn.Sequential(nn.Conv2d(1, 8, 5, 1, 2), nn.ReLU(), nn.Conv2d(8, 1, 5, 1, 2))
        self.D = Critic(size=64, width=8, n_layers=3)
        self.steps, self.batch_size, self.lr, self.decay = steps, batch_size, lr, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.999)),
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.999)),
        }

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        n, u = batch.normal, batch.unlabeled
        healthy = self.healthy(u).detach()
        critic_terms = {
            "adversarial": self.D(healthy).mean() - self.D(n).mean(),
            "penalty": 10 * gradient_penalty(self.D.forward, n, healthy),
        }
        yield "D", critic_terms
        # From here on D is the updated one: `yield` means "update now".
        generator_terms = {
            "adversarial": -self.D(self.healthy(u)).mean(),
            "identity": (n - self.healthy(n)).abs().mean(),
        }
        yield "G", generator_terms

    def healthy(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.G(x).float())

    def detect(self, x: Tensor) -> Detection:
        return residual(x, self.healthy(x))
