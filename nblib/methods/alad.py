"""ALAD: adversarially learned anomaly detection (Zenati et al., ICDM 2018).

An encoder E and a generator G become each other's inverse on normal images, held together by
three discriminators: of pairs (x, z), of pairs (x, x) and of pairs (z, z).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nblib.data.batches import Batch
from nblib.methods.layers import dcgan_generator, dcgan_trunk
from nblib.methods.losses import as_generated, as_real
from nblib.methods.method import Detection, Method


def dense(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(cin, cout), nn.LeakyReLU(0.2), nn.Dropout(0.2))


class PairXZ(nn.Module):
    """D_xz: x (B, C, size, size) and z (B, latent, 1, 1) -> logits (B, 1)."""

    def __init__(self, size: int, channels: int, width: int, latent: int):
        super().__init__()
        self.of_x = nn.Sequential(dcgan_trunk(size, channels, width), nn.Flatten())
        self.of_z = nn.Sequential(nn.Flatten(), dense(latent, 512), dense(512, 512))
        self.joint = dense(2 * width * size + 512, 1024)
        self.head = nn.Linear(1024, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.head(self.joint(torch.cat([self.of_x(x), self.of_z(z)], 1)))


class PairXX(nn.Module):
    """D_xx: two images (B, C, size, size), as channels -> logits (B, 1).

    stacked: put the pair one above the other, as the authors do, instead of as channels.
    """

    def __init__(self, size: int, channels: int, width: int, stacked: bool = False):
        super().__init__()
        self.axis = 2 if stacked else 1

        def halve(cin: int, cout: int) -> list[nn.Module]:
            return [nn.Conv2d(cin, cout, 5, 2, 2), nn.LeakyReLU(0.2), nn.Dropout(0.2)]

        first = halve(channels if stacked else 2 * channels, width)
        self.features = nn.Sequential(*first, *halve(width, 2 * width), nn.Flatten())
        self.head = nn.Linear(2 * width * (size // 4) ** 2 * (2 if stacked else 1), 1)

    def pair(self, x: Tensor, other: Tensor) -> Tensor:
        """f_xx, the features of a pair (B, n)."""
        return self.features(torch.cat([x, other], self.axis))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.head(self.pair(x, other))


class PairZZ(nn.Module):
    """D_zz: two codes (B, latent, 1, 1) -> logits (B, 1)."""

    def __init__(self, latent: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), dense(2 * latent, 64), dense(64, 32), nn.Linear(32, 1)
        )

    def forward(self, z: Tensor, other: Tensor) -> Tensor:
        return self.layers(torch.cat([z, other], 1))


class ALAD(Method):
    """ALAD; see the notebook 11_alad.

    size, channels: of the images; width: channels of the first layers; latent: numbers in z;
    average: factor of the moving averages of E, G and D_xx, which score; stacked: see `PairXX`;
    lr: Adam's rate; batch_size: of each update; steps: one update of the three discriminators and
    one of G and E each; decay: see `loop.rate_factor`.
    """

    at_budget = dict(smoke=dict(average=0.5), quick=dict(average=0.98), laptop=dict(average=0.99))

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        latent: int = 100,
        average: float = 0.999,
        stacked: bool = False,
        lr: float = 2e-4,
        batch_size: int = 32,
        steps: int = 30_000,
        decay: float = 1.0,
    ):
        super().__init__()
        self.E = nn.Sequential(
            dcgan_trunk(size, channels, width, first_norm=True),
            nn.Conv2d(width * size // 8, latent, 4),
        )
        self.G = dcgan_generator(size, channels, width, latent)
        self.D_xz = PairXZ(size, channels, width, latent)
        self.D_xx = PairXX(size, channels, width, stacked)
        self.D_zz = PairZZ(latent)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for network in (self.E, self.D_xz, self.D_xx, self.D_zz):
            _normalise_all_but_last(network)
        self.averages = nn.ModuleDict()
        for name in ("E", "G", "D_xx"):
            ema = get_ema_multi_avg_fn(average)
            self.averages[name] = AveragedModel(getattr(self, name), multi_avg_fn=ema)
        self.averages.requires_grad_(False)
        self.latent = latent
        # One half of each batch for the discriminators, the other, fresh one for G and E.
        self.lr, self.batch_size, self.steps, self.decay = lr, 2 * batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        def adam(*networks: nn.Module) -> Adam:
            return Adam([p for n in networks for p in n.parameters()], self.lr, (0.5, 0.999))

        discriminators = {name: adam(getattr(self, name)) for name in ("D_xz", "D_xx", "D_zz")}
        return discriminators | {"GE": adam(self.G, self.E)}

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        first, second = batch.normal.chunk(2)
        for name, (real, generated) in self._pairs(first, graph=False).items():
            D = getattr(self, name)
            yield name, {"real": as_real(D(*real)), "generated": as_generated(D(*generated))}
        terms = {}
        for name, (real, generated) in self._pairs(second, graph=True).items():
            D = getattr(self, name)
            terms[f"{name}_real"] = as_generated(D(*real))
            terms[f"{name}_generated"] = as_real(D(*generated))
        yield "GE", terms

    def _pairs(self, x: Tensor, graph: bool) -> dict[str, tuple]:
        """What each discriminator is shown as real and as generated, from x and a fresh z.

        (x, E(x)) and (G(z), z); (x, x) and (x, G(E(x))); (z, z) and (z, E(G(z))).
        """
        z = torch.randn(len(x), self.latent, 1, 1, device=x.device)
        with torch.set_grad_enabled(graph):
            code, made = self.E(x), self.G(z)
            restored, z_restored = self.G(code), self.E(made)
        return {
            "D_xz": ((x, code), (made, z)),
            "D_xx": ((x, x), (x, restored)),
            "D_zz": ((z, z), (z, z_restored)),
        }

    def after_step(self, step: int) -> None:
        for name, average in self.averages.items():
            average.update_parameters(getattr(self, name))

    def detect(self, x: Tensor) -> Detection:
        E, G, D = (self.averages[name] for name in ("E", "G", "D_xx"))
        restored = G(E(x))
        pair = D.module.pair
        difference = x - restored
        scores = {
            "features": (pair(x, x) - pair(x, restored)).abs().sum(1),
            "L1": difference.abs().sum((1, 2, 3)),
            "L2": difference.flatten(1).norm(dim=1),
            "logit": -D(x, restored).squeeze(1),
        }
        return Detection(scores, difference.abs().mean(1) / 2, restored)


def _normalise_all_but_last(network: nn.Module) -> None:
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        spectral_norm(layer)
