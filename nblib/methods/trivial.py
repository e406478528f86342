"""Scores that anyone would try first. Every table shows them: a network has to beat them.

All follow the contract of a method; none trains by gradient. x is in [-1, 1].
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from nblib.methods.directions import fisher, standardised
from nblib.methods.method import Detection, Method, residual


def mean_intensity(x: Tensor) -> Tensor:
    """The mean over all pixels of each image of (B, C, H, W) -> (B,)."""
    return x.mean((1, 2, 3))


def vertical_gradient(x: Tensor) -> Tensor:
    """The mean absolute difference of vertical neighbours, (B, C, H, W) -> (B,): roughness."""
    return x.diff(dim=2).abs().mean((1, 2, 3))


class Statistic(Method):
    """One number of an image, as its score; it learns from nothing."""

    needs = ()

    def __init__(self, statistic=mean_intensity):
        super().__init__()
        self.statistic = statistic

    def detect(self, x: Tensor) -> Detection:
        return Detection({"statistic": self.statistic(x)})


class StatisticDistance(Method):
    """How far one number of an image lies from its mean over known normals."""

    def __init__(self, statistic=mean_intensity):
        super().__init__()
        self.statistic = statistic

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        self.keep(mean=self.statistic(normal).mean())

    def detect(self, x: Tensor) -> Detection:
        return Detection({"distance": (self.statistic(x) - self.mean).abs()})


class MeanImage(Method):
    """|x - mean of the known normals|: the trivial heat map; its mean is the score."""

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        self.keep(mean=normal.mean(0))

    def detect(self, x: Tensor) -> Detection:
        return residual(x, self.mean.expand_as(x))


class PCAResidual(Method):
    """|x - projection on the first principal components of the known normals|.

    The projection may step over the bounds of an image, -1 and 1.
    """

    def __init__(self, components: int = 64):
        super().__init__()
        self.components = components

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        self.keep(**_principal_components(normal, self.components))

    def detect(self, x: Tensor) -> Detection:
        coefficients = (x.flatten(1) - self.mean) @ self.axes.T
        projection = (coefficients @ self.axes + self.mean).reshape(x.shape)
        return residual(x, projection)


class NearestNormals(Method):
    """The mean Euclidean distance to the nearest known normals, on pixels.

    The reference, fixed beforehand, of the methods that learn from known normals only.
    """

    def __init__(self, neighbours: int = 5):
        super().__init__()
        self.neighbours = neighbours

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        self.keep(normal=normal)

    def detect(self, x: Tensor) -> Detection:
        # The fast form of cdist rounds by the size of the batch; scores must not depend on it.
        distances = torch.cdist(
            x.flatten(1),
            self.normal.flatten(1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        nearest, index = distances.topk(min(self.neighbours, len(self.normal)), largest=False)
        restored = self.normal[index].mean(1)
        return Detection({"distance": nearest.mean(1)}, (x - restored).abs().mean(1) / 2, restored)


class KnownAgainstUnlabeled(Method):
    """Logistic regression that tells known normals from unlabeled images, on PCA coefficients.

    Of the unlabeled images only the abnormal ones differ from known normals: see `directions`.

    The reference, fixed beforehand, of the methods that use the unlabeled mix.
    """

    needs = ("normal", "unlabeled")

    def __init__(self, components: int = 64, C: float = 0.01):
        super().__init__()
        self.components, self.C = components, C

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        both = torch.cat([normal, unlabeled])
        pca = _principal_components(both, self.components)
        is_unlabeled = [0] * len(normal) + [1] * len(unlabeled)
        coefficients = (both.flatten(1) - pca["mean"]) @ pca["axes"].T
        model = LogisticRegression(C=self.C, max_iter=5000, random_state=0)
        model.fit(coefficients.cpu().numpy(), is_unlabeled)
        weight = torch.as_tensor(model.coef_[0], dtype=both.dtype, device=both.device)
        # One linear function of the pixels: the PCA and the regression in one.
        bias = torch.as_tensor(model.intercept_[0], dtype=both.dtype, device=both.device)
        self.keep(weight=weight @ pca["axes"], bias=bias, mean=pca["mean"])

    def detect(self, x: Tensor) -> Detection:
        # A sum, not a matrix product, whose rounding would depend on the size of the batch.
        return Detection({"logit": ((x.flatten(1) - self.mean) * self.weight).sum(1) + self.bias})


class PixelFisher(Method):
    """Fisher's direction, whitened by the known normals, on coefficients of their own PCA.

    What `pretrained_fisher` does with features, done with pixels: see `directions.fisher`.
    """

    needs = ("normal", "unlabeled")

    def __init__(self, components: int = 64):
        super().__init__()
        self.components = components

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        pca = _principal_components(normal, self.components)
        known, mix = (
            ((x.flatten(1) - pca["mean"]) @ pca["axes"].T).cpu().double().numpy()
            for x in (normal, unlabeled)
        )
        weight, bias = standardised(fisher, known, mix, (known.shape[1],), patients)
        # One linear function of the pixels.
        weight, bias = normal.new_tensor(weight) @ pca["axes"], normal.new_tensor(bias)
        self.keep(weight=weight, bias=bias, mean=pca["mean"])

    def detect(self, x: Tensor) -> Detection:
        # A sum, not a matrix product, whose rounding would depend on the size of the batch.
        along = ((x.flatten(1) - self.mean) * self.weight).sum(1) + self.bias
        return Detection({"fisher": along})


def _principal_components(images: Tensor, components: int) -> dict[str, Tensor]:
    components = min(components, len(images) - 1)
    pca = PCA(components, random_state=0).fit(images.flatten(1).cpu().numpy())
    return {"axes": images.new_tensor(pca.components_), "mean": images.new_tensor(pca.mean_)}
