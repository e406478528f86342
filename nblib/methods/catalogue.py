"""Every method, an entry each: whatever else needs to know one derives it from here.

Its row in the table of budgets, marker and colour in figures, the notebook that makes its runs,
the tables of notebooks, what it is shown beside, and who takes part in moved images.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from nblib.methods import trivial
from nblib.methods.alad import ALAD
from nblib.methods.alocc import ALOCC
from nblib.methods.anogan import AnoGAN
from nblib.methods.brainomaly import Brainomaly
from nblib.methods.brainomaly_features import BrainomalyFeatures, PatchFisher
from nblib.methods.directions import fisher, logistic
from nblib.methods.encodings import (
    Alibi2d,
    AttentionSpec,
    BinaryCode,
    LearnedPlace,
    NoPosition,
    RelativeBias,
    Rope2d,
    Sinusoidal2d,
)
from nblib.methods.ganomaly import GANomaly
from nblib.methods.healthygan import HealthyGAN
from nblib.methods.layers import ClosedGate, OpenGate, PlacedBehindNorm
from nblib.methods.method import Method
from nblib.methods.pretrained import PretrainedKNN, PretrainedLinear
from nblib.methods.sagan import SAGAN
from nblib.methods.sagan_features import GatedSpec
from nblib.methods.swin import SwinEncoder, swin_decoder
from nblib.progress import say


class Family(NamedTuple):
    """Methods that figures show by one marker, where there are too many to tell one by one.

    trains: the column of `budgets.BUDGETS` that its methods take, None where none of them trains.
    """

    marker: str
    colour: str
    trains: str | None


FAMILIES = {
    "trivial": Family("D", "#9a9a9a", None),
    "reference": Family("P", "#000000", None),
    "pretrained": Family("s", "#7b3294", None),
    "GAN, known normals": Family("v", "#d55e00", "one class"),
    "GAN, the mix as well": Family("o", "#de8f05", "translation"),
    "GAN, features": Family("h", "#b2182b", "features"),
    "SAGAN, place codes": Family("^", "teal", "translation"),
    "SAGAN, attention": Family("<", "crimson", "translation"),
    "SAGAN, Swin": Family("*", "#56b4e9", "translation"),
    "SAGAN, controls": Family("X", "olive", "translation"),
}


class Entry(NamedTuple):
    """What is to be known of a method.

    make: its class, or a partial of it with the parts that make the variant; family: a key of
    FAMILIES; colour: unlike its neighbours', a grey for trivial scores alone; notebook: the one
    that makes its runs; what: it is, in some words for the tables of notebooks; against: the
    methods that it was made from, so that one thing at a time differs.
    """

    make: Callable[..., Method]
    family: str
    colour: str
    notebook: str
    what: str
    against: tuple[str, ...] = ()

    @property
    def kind(self) -> type[Method]:
        """The class behind `make`."""
        return self.make.func if isinstance(self.make, partial) else self.make

    @property
    def needs(self) -> tuple[str, ...]:
        """Which images it learns from, of: normal, unlabeled, pseudo."""
        return self.fixed.get("needs", self.kind.needs)

    @property
    def uses(self) -> str:
        """The same as tables say it."""
        if not self.needs:
            return "nothing"
        return "known normals + unlabeled" if "unlabeled" in self.needs else "known normals"

    @property
    def fixed(self) -> dict:
        """The arguments that make the variant; no budget changes them."""
        return self.make.keywords if isinstance(self.make, partial) else {}


# Place codes stand in generator and critic, sinusoids also behind the first layer. Attention comes
# without a place code and without patches: what it can do, it does over the whole image.
_sinusoidal = partial(SAGAN, place=Sinusoidal2d, critic_place=Sinusoidal2d, added=Sinusoidal2d)
_learned = partial(SAGAN, place=LearnedPlace, critic_place=LearnedPlace)
_whole = partial(SAGAN, grid=1, place=None)
_WHOLE = ("sagan", "sagan_whole", "sagan_attention")

# On features nothing is cut, and maps are finer than the plain one's, to be halved once.
_fine = partial(BrainomalyFeatures, side=14)

METHODS = {
    # learn from nothing, or from known normals
    "mean_intensity": Entry(
        partial(trivial.Statistic, statistic=trivial.mean_intensity),
        "trivial", "#c6c6c6", "02_trivial_baselines", "brightness",
    ),
    "vertical_gradient": Entry(
        partial(trivial.Statistic, statistic=trivial.vertical_gradient),
        "trivial", "#b0b0b0", "02_trivial_baselines", "roughness",
    ),
    "intensity_distance": Entry(
        partial(trivial.StatisticDistance, statistic=trivial.mean_intensity),
        "trivial", "#9a9a9a", "02_trivial_baselines", "how unusual they are",
    ),
    "gradient_distance": Entry(
        partial(trivial.StatisticDistance, statistic=trivial.vertical_gradient),
        "trivial", "#848484", "02_trivial_baselines", "how unusual they are",
    ),
    "mean_image": Entry(
        trivial.MeanImage,
        "trivial", "#6e6e6e", "02_trivial_baselines", "distance to the mean image",
    ),
    "pca16": Entry(
        partial(trivial.PCAResidual, components=16),
        "trivial", "#585858", "02_trivial_baselines", "what principal components leave",
    ),
    "pca64": Entry(
        partial(trivial.PCAResidual, components=64),
        "trivial", "#424242", "02_trivial_baselines", "what principal components leave",
    ),
    "nearest_normals": Entry(
        trivial.NearestNormals,
        "reference", "#ca9161", "02_trivial_baselines", "distance to the nearest normals",
    ),
    "pretrained_knn": Entry(
        PretrainedKNN,
        "pretrained", "#7b3294", "03_pretrained_features",
        "EfficientNet-Lite0, never trained here: nearest normals",
    ),
    "pretrained_knn_64": Entry(
        partial(PretrainedKNN, enlarge=True),
        "pretrained", "#b99ac9", "03_pretrained_features", "the same on what the GANs see",
    ),
    "anogan": Entry(
        AnoGAN,
        "GAN, known normals", "#d55e00", "10_anogan",
        "AnoGAN (2017): search for the nearest image that a GAN can make",
    ),
    "alad": Entry(
        ALAD,
        "GAN, known normals", "#cc78bc", "11_alad",
        "ALAD (2018): an encoder in place of the search, three discriminators",
    ),
    "alocc": Entry(
        ALOCC,
        "GAN, known normals", "#ece133", "12_alocc",
        "ALOCC (2018): a denoiser and a discriminator",
    ),
    "ganomaly": Entry(
        GANomaly,
        "GAN, known normals", "#fbafe4", "13_ganomaly",
        "GANomaly (2018): encode, decode, encode again",
    ),
    "sagan_no_unlabeled": Entry(
        partial(SAGAN, needs=("normal", "pseudo")),
        "SAGAN, controls", "#3f3f00", "36_controls",
        "SAGAN without the unlabeled mix", ("sagan",),
    ),
    # use the unlabeled mix as well
    "known_against_unlabeled": Entry(
        trivial.KnownAgainstUnlabeled,
        "reference", "#000000", "02_trivial_baselines",
        "logistic regression of known normals against the mix",
    ),
    "pixel_fisher": Entry(
        trivial.PixelFisher,
        "reference", "#4d3b2a", "02_trivial_baselines",
        "Fisher's direction, whitened by the known normals",
    ),
    "pretrained_logistic": Entry(
        partial(PretrainedLinear, directions=(logistic,)),
        "pretrained", "#2c2c8f", "03_pretrained_features",
        "logistic regression of known normals against the mix",
    ),
    "pretrained_logistic_64": Entry(
        partial(PretrainedLinear, directions=(logistic,), enlarge=True),
        "pretrained", "#9393d1", "03_pretrained_features", "the same on what the GANs see",
    ),
    "pretrained_fisher": Entry(
        partial(PretrainedLinear, directions=(fisher,)),
        "pretrained", "#4a6fd6", "03_pretrained_features",
        "Fisher's direction, whitened by the known normals",
    ),
    "pretrained_mean": Entry(
        partial(PretrainedLinear, directions=(logistic, fisher)),
        "pretrained", "#101060", "03_pretrained_features", "the mean of both",
    ),
    "patch_fisher": Entry(
        PatchFisher,
        "pretrained", "#7fb8d9", "03_pretrained_features",
        "Fisher's direction at each place, whitened by places of the known normals",
    ),
    "healthygan": Entry(
        HealthyGAN,
        "GAN, the mix as well", "#0173b2", "20_healthygan",
        "HealthyGAN (2022): a healthy image and a mask",
    ),
    "brainomaly": Entry(
        Brainomaly,
        "GAN, the mix as well", "#de8f05", "21_brainomaly", "Brainomaly (2024): an additive map",
    ),
    "brainomaly_features": Entry(
        BrainomalyFeatures,
        "GAN, features", "#b2182b", "23_brainomaly_features",
        "Brainomaly's additive map on whitened features", ("brainomaly", "patch_fisher"),
    ),
    "sagan_features": Entry(
        partial(_fine, gated=GatedSpec()),
        "GAN, features", "#d9603b", "24_sagan_features",
        "SAGAN's generator with its gate on whitened features", ("brainomaly_features_14",),
    ),
    "brainomaly_features_14": Entry(
        _fine,
        "GAN, features", "#67001f", "24_sagan_features",
        "Brainomaly's map at as many places", ("brainomaly_features",),
    ),
    "sagan_features_place": Entry(
        partial(_fine, gated=GatedSpec(BinaryCode)),
        "GAN, features", "#f4a582", "24_sagan_features",
        "with SAGAN's place code", ("sagan_features",),
    ),
    "sagan_features_sinusoidal": Entry(
        partial(_fine, gated=GatedSpec(Sinusoidal2d)),
        "GAN, features", "#a8452c", "24_sagan_features",
        "with sinusoidal place codes", ("sagan_features",),
    ),
    "sagan_features_attention": Entry(
        partial(_fine, gated=GatedSpec(attention=AttentionSpec(NoPosition))),
        "GAN, features", "#c9939f", "24_sagan_features",
        "with attention", ("sagan_features",),
    ),
    "sagan_features_rope": Entry(
        partial(_fine, gated=GatedSpec(attention=AttentionSpec(Rope2d))),
        "GAN, features", "#8e5d6d", "24_sagan_features",
        "with attention, and RoPE in it", ("sagan_features", "sagan_features_attention"),
    ),
    "sagan": Entry(
        SAGAN,
        "GAN, the mix as well", "#029e73", "22_sagan",
        "SAGAN (2024): patches, place codes, gates, pseudo-anomalies",
    ),
    "sagan_place_acts": Entry(
        partial(SAGAN, placed=PlacedBehindNorm),
        "SAGAN, place codes", "#b7dbdb", "30_place_code",
        "SAGAN's place code in a form that acts", ("sagan",),
    ),
    "sagan_sinusoidal": Entry(
        _sinusoidal,
        "SAGAN, place codes", "#6db6b6", "31_sinusoidal",
        "SAGAN with sinusoidal place codes, as published", ("sagan",),
    ),
    "sagan_sinusoidal_acts": Entry(
        partial(_sinusoidal, placed=PlacedBehindNorm),
        "SAGAN, place codes", "#259292", "31_sinusoidal",
        "and acting", ("sagan", "sagan_place_acts", "sagan_sinusoidal"),
    ),
    "sagan_learned": Entry(
        _learned,
        "SAGAN, place codes", "#006d6d", "32_learned",
        "SAGAN with learned place codes, as published", ("sagan",),
    ),
    "sagan_learned_acts": Entry(
        partial(_learned, placed=PlacedBehindNorm),
        "SAGAN, place codes", "#004949", "32_learned",
        "and acting", ("sagan", "sagan_place_acts", "sagan_learned"),
    ),
    "sagan_rope": Entry(
        partial(_whole, attention=AttentionSpec(Rope2d)),
        "SAGAN, attention", "#e8627d", "33_rope", "SAGAN with attention, and RoPE in it", _WHOLE,
    ),
    "sagan_alibi": Entry(
        partial(_whole, attention=AttentionSpec(Alibi2d)),
        "SAGAN, attention", "#db143c", "34_alibi", "SAGAN with attention, and ALiBi in it", _WHOLE,
    ),
    "sagan_attention_bias": Entry(
        partial(_whole, attention=AttentionSpec(RelativeBias)),
        "SAGAN, attention", "#930d28", "35_attention_bias",
        "SAGAN with attention, and a learned bias in it", _WHOLE,
    ),
    "sagan_swin": Entry(
        partial(_whole, encoder=SwinEncoder, decoder=swin_decoder),
        "SAGAN, Swin", "#56b4e9", "40_swin",
        "SAGAN with a Swin Transformer as encoder and decoder", ("sagan", "sagan_whole"),
    ),
    # controls: what the variants change beside the encoding, one thing at a time
    "sagan_no_place": Entry(
        partial(SAGAN, place=None),
        "SAGAN, controls", "#dfdfbf", "30_place_code", "and taken out", ("sagan",),
    ),
    "sagan_whole": Entry(
        _whole, "SAGAN, controls", "#bfbf7f", "36_controls", "not cut", ("sagan",)
    ),
    "sagan_attention": Entry(
        partial(_whole, attention=AttentionSpec(NoPosition)),
        "SAGAN, attention", "#f3b2bf", "36_controls",
        "with attention alone", ("sagan", "sagan_whole"),
    ),
    "sagan_no_gates": Entry(
        partial(SAGAN, gate=OpenGate),
        "SAGAN, controls", "#9f9f3f", "36_controls", "without gates", ("sagan",),
    ),
    "sagan_no_skips": Entry(
        partial(SAGAN, gate=ClosedGate),
        "SAGAN, controls", "#7f7f00", "36_controls", "without skips", ("sagan",),
    ),
    "sagan_no_pseudo": Entry(
        partial(SAGAN, needs=("normal", "unlabeled")),
        "SAGAN, controls", "#5f5f00", "36_controls", "without pseudo-anomalies", ("sagan",),
    ),
}  # fmt: skip


def entry(method: str) -> Entry:
    """The entry of a method; raises ValueError, naming those that there are, for an unknown one."""
    if method not in METHODS:
        raise ValueError(f"There is no method '{method}'. There are: {', '.join(METHODS)}.")
    return METHODS[method]


def parts(method: str) -> list[str]:
    """The methods of a sum, such as 'pretrained_mean+sagan' (see `results.sums`), or the method."""
    return method.split("+")


def order(method: str) -> int:
    """The place of a method in the catalogue, which is its place in every table."""
    return list(METHODS).index(method)


def known(methods: Iterable[str]) -> list[str]:
    """Those of some methods that are in the catalogue, once each; names the others in a line."""
    methods = list(dict.fromkeys(methods))
    gone = [method for method in methods if method not in METHODS]
    if gone:
        say(f"Left out, since the catalogue of methods no longer has it: {', '.join(gone)}.")
    return [method for method in methods if method in METHODS]


def in_words() -> dict[str, tuple[str, str]]:
    """What the methods of each notebook are, and what they learn from, for tables of notebooks."""
    words = {}
    for notebook, methods in by_notebook().items():
        what = dict.fromkeys(METHODS[method].what for method in methods)
        uses = dict.fromkeys(METHODS[method].uses for method in methods)
        words[notebook] = "; ".join(what), "; ".join(uses)
    return words


def by_notebook() -> dict[str, list[str]]:
    """The methods of each notebook that makes runs, in the order of the notebooks' numbers."""
    return {
        notebook: [name for name, entry in METHODS.items() if entry.notebook == notebook]
        for notebook in sorted({entry.notebook for entry in METHODS.values()})
    }


REFERENCES = {
    "known normals": "nearest_normals",
    "known normals + unlabeled": "known_against_unlabeled",
}
"""Fixed beforehand: one for methods that learn from known normals, one for those that use U."""

PRETRAINED = {"known normals": "pretrained_knn", "known normals + unlabeled": "pretrained_logistic"}
"""What one would use without training anything, for each of the two kinds."""


BAR = "pretrained_mean"
"""What a GAN on features is to pass, and is added to: the features that our tables rank first."""

RECOMMENDED = ("pretrained_mean", "pretrained_fisher", "pretrained_logistic")
"""What to begin with on images of one's own: what our tables rank first, and its two parts."""

ONE_CLASS = ("pretrained_knn",)
"""The same where there are known normals alone."""


def companions(method: str) -> tuple[str, ...]:
    """What a method is shown beside: the reference of its kind, pretrained features, controls."""
    found = entry(method)
    return REFERENCES[found.uses], PRETRAINED[found.uses], *found.against
