"""HealthyGAN (Rahman Siddiquee et al., SASHIMI 2022; thesis, section 2.4.5): an image and a mask.

G makes a healthy image and a mask that says where to use it; it learns from known normals and from
an unlabeled mix.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch, flipped
from nblib.methods.layers import Critic, Translator
from nblib.methods.losses import focus, wasserstein
from nblib.methods.method import Detection, Method, residual


class HealthyGAN(Method):
    """HealthyGAN; see the notebook 20_healthygan.

    size, channels: of the images, size a multiple of 4; width: channels of the generator's first
    layer; critic_width, critic_layers: see `layers.Critic` (None: as wide as the generator);
    lambda_id, lambda_rec, lambda_f, lambda_gp: weights of the losses; flips: whether training
    images are mirrored at random; lr: Adam's rate; steps: critic steps, two for each of the
    generator; decay: see `loop.rate_factor`.
    """

    needs = ("normal", "unlabeled")

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        critic_width: int | None = None,
        critic_layers: int = 6,
        lambda_id: float = 1.0,
        lambda_rec: float = 1.0,
        lambda_f: float = 0.1,
        lambda_gp: float = 10.0,
        flips: bool = True,
        lr: float = 1e-4,
        batch_size: int = 16,
        steps: int = 200_000,
        decay: float = 1.0,
    ):
        super().__init__()
        if size % 4:
            raise ValueError(f"HealthyGAN needs an image size that is a multiple of 4; got {size}.")
        self.G = Translator(channels, channels + 1, width)
        self.D = Critic(size, channels, critic_width or width, critic_layers)
        self.lambda_id, self.lambda_rec, self.lambda_f = lambda_id, lambda_rec, lambda_f
        self.lambda_gp, self.flips = lambda_gp, flips
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.999)),
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.999)),
        }

    def image_and_mask(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_int in (-1, 1), of x's shape, and m (B, 1, H, W) in (0, 1): where it replaces x."""
        raw = self.G(x).float().tanh()
        return raw[:, :-1], (raw[:, -1:] + 1) / 2

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        n, u = (flipped(x) if self.flips else x for x in (batch.normal, batch.unlabeled))
        with torch.no_grad():
            healthy = masked(u, *self.image_and_mask(u))
        yield "D", wasserstein(self.D, n, healthy, self.lambda_gp)
        if step % 2:
            (n_int, u_int), (n_mask, u_mask) = (
                both.chunk(2) for both in self.image_and_mask(torch.cat([n, u]))
            )
            yield None, {"mask": torch.stack([n_mask, u_mask]).detach().mean()}
            yield "G", self.generator_terms(n, u, n_int, n_mask, u_int, u_mask)

    def generator_terms(
        self, n: Tensor, u: Tensor, n_int: Tensor, n_mask: Tensor, u_int: Tensor, u_mask: Tensor
    ) -> dict[str, Tensor]:
        """Thesis, eq. 2.14, as the authors' code has its parts.

        -D(U') - D(N') + lambda_id |N - N_int| + lambda_rec |U - (U m + U_int (1 - m))|
        + lambda_f (focus(m_U) + focus(m_N)) / 2.
        """
        fakes = torch.cat([masked(n, n_int, n_mask), masked(u, u_int, u_mask)])
        of_n, of_u = self.D(fakes).chunk(2)
        return {
            "adversarial": -of_u.mean() - of_n.mean(),
            "identity": self.lambda_id * (n - n_int).abs().mean(),
            "reconstruction": self.lambda_rec * (u - masked(u_int, u, u_mask)).abs().mean(),
            "focus": self.lambda_f * (focus(u_mask) + focus(n_mask)) / 2,
        }

    def detect(self, x: Tensor) -> Detection:
        return residual(x, masked(x, *self.image_and_mask(x)))


def masked(x: Tensor, other: Tensor, m: Tensor) -> Tensor:
    """x where the mask m is 0, the other image where it is 1 (thesis, eq. 2.6)."""
    return m * other + (1 - m) * x
