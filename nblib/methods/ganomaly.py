"""GANomaly (Akcay et al., ACCV 2018; thesis, section 2.4.4): encode, decode, encode again.

Trained on normal images, G maps x to a code z, to an image x', and that to a code z' again. Of an
abnormal image the two codes differ.
"""

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch
from nblib.methods.layers import dcgan_generator, dcgan_trunk, dcgan_weights
from nblib.methods.losses import as_generated, as_real
from nblib.methods.method import Detection, Method


class Encoder(nn.Module):
    """x (B, C, size, size) -> (B, latent, 1, 1), linear; `features` are all but the last layer."""

    def __init__(self, size: int, channels: int, width: int, latent: int):
        super().__init__()
        self.features = dcgan_trunk(size, channels, width)
        self.head = nn.Conv2d(width * size // 8, latent, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Recoder(nn.Module):
    """x (B, C, size, size) in [-1, 1] -> z, x' in (-1, 1), z'; codes are (B, latent, 1, 1)."""

    def __init__(self, size: int, channels: int, width: int, latent: int):
        super().__init__()
        self.encoder = Encoder(size, channels, width, latent)
        self.decoder = dcgan_generator(size, channels, width, latent)
        self.second_encoder = Encoder(size, channels, width, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.encoder(x)
        restored = self.decoder(z)
        return z, restored, self.second_encoder(restored)


class GANomaly(Method):
    """GANomaly; see the notebook 13_ganomaly.

    size, channels: of the images; width: channels of the encoders' first layer; latent: numbers in
    a code; w_adv, w_con, w_enc: weights of the losses; lr: Adam's rate; steps: one update of G and
    D each; decay: see `loop.rate_factor`.
    """

    RESTART_BELOW, LOOK_EVERY = 1e-5, 10
    """D starts afresh where its loss fell below; looking stalls a GPU, so not every step."""

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        latent: int = 100,
        w_adv: float = 1.0,
        w_con: float = 50.0,
        w_enc: float = 1.0,
        lr: float = 2e-4,
        batch_size: int = 64,
        steps: int = 30_000,
        decay: float = 1.0,
    ):
        super().__init__()
        self.G = Recoder(size, channels, width, latent)
        self.D = Encoder(size, channels, width, 1)
        self.apply(dcgan_weights)
        self.w_adv, self.w_con, self.w_enc = w_adv, w_con, w_enc
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.999)),
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.999)),
        }

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        x = batch.normal
        z, restored, z_restored = self.G(x)
        # As the authors do, D is asked about the images that G made before its update.
        terms = self.critic_terms(x, restored.detach())
        yield "G", self.generator_terms(x, z, restored, z_restored)
        yield "D", terms
        if step % self.LOOK_EVERY == 0 and sum(terms.values()) < self.RESTART_BELOW:
            self.D.apply(dcgan_weights)

    def critic_terms(self, x: Tensor, restored: Tensor) -> dict[str, Tensor]:
        """Half of each cross entropy: real x, generated x'."""
        return {
            "real": 0.5 * as_real(self.D(x)),
            "generated": 0.5 * as_generated(self.D(restored)),
        }

    def generator_terms(
        self, x: Tensor, z: Tensor, restored: Tensor, z_restored: Tensor
    ) -> dict[str, Tensor]:
        """Thesis, eq. 2.2 to 2.5, with squares and means as the authors' code has them.

        w_adv (f(x) - f(x'))^2 + w_con |x - x'| + w_enc (z - z')^2, f the features of D.
        """
        difference = self.D.features(x) - self.D.features(restored)
        return {
            "adversarial": self.w_adv * difference.float().square().mean(),
            "contextual": self.w_con * (x - restored).float().abs().mean(),
            "encoder": self.w_enc * (z - z_restored).float().square().mean(),
        }

    def detect(self, x: Tensor) -> Detection:
        z, restored, z_restored = self.G(x)
        map = (x - restored).abs().mean(1) / 2
        scores = {"latent": (z - z_restored).square().mean((1, 2, 3))}
        return Detection(scores | {"residual": map.mean((1, 2))}, map, restored)

    def authors_score(self, x: Tensor) -> Tensor:
        """The score (B,) that the authors' code gives x in one batch: batch norm in training mode.

        It depends on the other images of the batch, and so leaks what they are. To be shown, never
        used.
        """
        return copy.deepcopy(self).train().detect(x).scores["latent"]

    def codes(self, x: Tensor) -> Tensor:
        """z (B, latent) of images (B, C, H, W)."""
        return self.G.encoder(x).flatten(1)
