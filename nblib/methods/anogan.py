"""AnoGAN (Schlegl et al., IPMI 2017): the nearest image that a GAN of normal images can make.

A DCGAN learns to make normal images from z. To score an image, z is searched for by gradient
descent; what the best G(z) lacks of the image is the anomaly.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim import Adam, Optimizer

from nblib.data.batches import Batch
from nblib.methods.layers import dcgan_generator, dcgan_trunk, dcgan_weights
from nblib.methods.losses import as_generated, as_real
from nblib.methods.method import Detection, Method
from nblib.progress import progress


class Discriminator(nn.Module):
    """x (B, C, size, size) -> logits (B, 1, 1, 1), larger = real; `features` are f(x)."""

    def __init__(self, size: int, channels: int, width: int):
        super().__init__()
        self.features = dcgan_trunk(size, channels, width)
        self.head = nn.Conv2d(width * size // 8, 1, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class AnoGAN(Method):
    """AnoGAN; see the notebook 10_anogan.

    size, channels: of the images; width: channels of D's first layer and before G's last;
    latent: numbers in z; lr: Adam's rate; search_steps, search_lr: of the search for z;
    lambda_f: share of the features in the score; steps: one update of D and G each.
    """

    optimises = True
    at_budget = dict(
        smoke=dict(search_steps=5), quick=dict(search_steps=50), laptop=dict(search_steps=100)
    )

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 64,
        latent: int = 100,
        search_steps: int = 500,
        search_lr: float = 0.01,
        lambda_f: float = 0.1,
        lr: float = 2e-4,
        batch_size: int = 64,
        steps: int = 30_000,
        decay: float = 1.0,
    ):
        super().__init__()
        self.G = dcgan_generator(size, channels, width, latent)
        self.D = Discriminator(size, channels, width)
        self.apply(dcgan_weights)
        # Every image's search starts here, so that its score does not depend on chance.
        self.register_buffer("z0", torch.randn(latent))
        self.search_steps, self.search_lr, self.lambda_f = search_steps, search_lr, lambda_f
        self.lr, self.batch_size, self.steps, self.decay = lr, batch_size, steps, decay

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "D": Adam(self.D.parameters(), self.lr, (0.5, 0.999)),
            "G": Adam(self.G.parameters(), self.lr, (0.5, 0.999)),
        }

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        x = batch.normal
        z = torch.randn(len(x), len(self.z0), 1, 1, device=x.device)
        generated = self.G(z)
        yield (
            "D",
            {
                "real": as_real(self.D(x)),
                "generated": as_generated(self.D(generated.detach())),
            },
        )
        yield "G", {"adversarial": as_real(self.D(generated))}

    def detect(self, x: Tensor) -> Detection:
        z, _ = self.search(x, [self.search_steps])
        restored = self.G(z)
        residual, features = distances(x, restored, *map(self.D.features, (x, restored)))
        loss = self.loss(residual, features)
        scores = {"loss": loss, "residual": residual, "features": features}
        return Detection(scores, (x - restored).abs().mean(1) / 2, restored)

    def loss(self, residual: Tensor, features: Tensor) -> Tensor:
        """Schlegl et al. 2017, eq. 5: what the search minimises, and the score."""
        return (1 - self.lambda_f) * residual + self.lambda_f * features

    def search(self, x: Tensor, after: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """The best z (B, latent, 1, 1) for each image, and its loss (B,) after so many steps.

        All images are searched for at once: each has its own z, Adam acts on every number of z
        alone, and in evaluation mode no image sees another, so that the result is that of each
        image by itself. Networks get no gradient.
        """
        z = self.z0.repeat(len(x), 1)[..., None, None].requires_grad_()
        optimizer = Adam([z], self.search_lr)
        G, f = folded(self.G), folded(self.D.features)
        f_x = f(x)
        best_z, best = z.detach().clone(), x.new_full((len(x),), torch.inf)
        found = {}
        for step in progress(max(after) + 1, f"searching z for {len(x)} images"):
            with torch.enable_grad():
                restored = G(z)
                loss = self.loss(*distances(x, restored, f_x, f(restored)))
                optimizer.zero_grad()
                loss.sum().backward()
            better = loss.detach() < best
            best = torch.where(better, loss.detach(), best)
            best_z = torch.where(better[:, None, None, None], z.detach(), best_z)
            if step in after:
                found[step] = best
            optimizer.step()
        return best_z, found


def distances(
    x: Tensor, restored: Tensor, f_x: Tensor, f_restored: Tensor
) -> tuple[Tensor, Tensor]:
    """sum |x - x'| and sum |f(x) - f(x')| of each image (Schlegl et al. 2017, eq. 1 and 4)."""
    return tuple((a - b).abs().sum((1, 2, 3)) for a, b in ((x, restored), (f_x, f_restored)))


def folded(network: nn.Sequential) -> nn.Sequential:
    """A frozen copy for the search: batch norms folded into their convolutions, channels last.

    The same function in evaluation mode, and faster: it is called hundreds of times for each image.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for block in network:
        if isinstance(block, nn.Sequential) and isinstance(block[1], nn.BatchNorm2d):
            transposed = isinstance(block[0], nn.ConvTranspose2d)
            block[0] = fuse_conv_bn_eval(block[0], block[1], transposed)
            block[1] = nn.Identity()
    return network.to(memory_format=torch.channels_last)
