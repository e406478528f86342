"""What is asked of a set: a preregistration, a list by hand."""

from collections import Counter
from typing import NamedTuple

from nblib.methods.catalogue import BAR


class Question(NamedTuple):
    """A question, the pairs of methods that answer it, and the family that Holm corrects over.

    sets: of which it is asked; () are all sets that have no questions of their own.
    """

    text: str
    pairs: tuple[tuple[str, str], ...]
    family: str
    sets: tuple[str, ...] = ()


def _each(methods: str, against: str) -> tuple[tuple[str, str], ...]:
    return tuple((method, against) for method in methods.split())


THESIS = "the thesis' question"
"""The family of the encodings and of Swin, each against its control."""

GAN_ON_FEATURES = "GANs on features"

GAN_ADDS = "what a GAN adds to features"

ADDED = {
    "brainomaly_features": "patch_fisher",
    "sagan_features": "patch_fisher",
    "brainomaly": "known_against_unlabeled",
    "sagan": "known_against_unlabeled",
}
"""GAN -> what is added in its place, so that any second score is not taken for a GAN's merit: the
closed form on the same features, or the reference of its kind on the same pixels."""


def with_features(method: str) -> str:
    """The name of the sum of `BAR` and a method, see `sums`."""
    return f"{BAR}+{method}"


QUESTIONS = (
    Question(
        "Do other place codes help, as the thesis builds them?",
        _each("sagan_sinusoidal sagan_learned", "sagan"),
        THESIS,
    ),
    Question(
        "Do place codes help when they act?",
        _each("sagan_place_acts sagan_sinusoidal_acts sagan_learned_acts", "sagan"),
        THESIS,
    ),
    Question(
        "Do encodings inside the attention help?",
        _each("sagan_rope sagan_alibi sagan_attention_bias", "sagan_attention"),
        THESIS,
    ),
    Question("Does Swin help?", (("sagan_swin", "sagan"), ("sagan_swin", "sagan_whole")), THESIS),
    Question(
        "Does the published place code act?", _each("sagan", "sagan_no_place"), "inside SAGAN"
    ),
    Question("Does it help not to cut?", _each("sagan_whole", "sagan"), "inside SAGAN"),
    Question(
        "Does attention without an encoding help?",
        _each("sagan_attention", "sagan_whole"),
        "inside SAGAN",
    ),
    Question("Do the gates help?", _each("sagan", "sagan_no_gates"), "inside SAGAN"),
    Question("Do the skips help?", _each("sagan", "sagan_no_skips"), "inside SAGAN"),
    Question("Do pseudo-anomalies help?", _each("sagan", "sagan_no_pseudo"), "inside SAGAN"),
    Question("Do the unlabeled images help?", _each("sagan", "sagan_no_unlabeled"), "inside SAGAN"),
    Question(
        "Is SAGAN better than the GANs before it?",
        (("sagan", "ganomaly"), ("sagan", "healthygan"), ("sagan", "brainomaly")),
        "GANs and others",
    ),
    Question(
        "Is a GAN better than the trivial reference of its kind?",
        _each("anogan alad alocc ganomaly sagan_no_unlabeled", "nearest_normals")
        + _each("healthygan brainomaly sagan sagan_rope sagan_swin", "known_against_unlabeled"),
        "GANs and others",
    ),
    Question(
        "Is a GAN better than features of a network trained on photographs?",
        _each("anogan alad alocc ganomaly sagan_no_unlabeled", "pretrained_knn")
        + _each("healthygan brainomaly sagan sagan_rope sagan_swin", "pretrained_logistic"),
        "GANs and others",
    ),
    Question(
        "Are features better where the known normals whiten them?",
        _each("pretrained_fisher pretrained_mean", "pretrained_logistic"),
        "features",
    ),
    Question(
        "And pixels?",
        _each("pixel_fisher", "known_against_unlabeled"),
        "features",
    ),
    Question(
        "Is it the GAN, or the whitening?",
        _each("brainomaly_features", "patch_fisher"),
        GAN_ON_FEATURES,
    ),
    Question(
        "Is a GAN on features better than features, and than one on pixels?",
        (
            ("brainomaly_features", "pretrained_mean"),
            ("sagan_features", "pretrained_mean"),
            ("brainomaly_features", "brainomaly"),
        ),
        GAN_ON_FEATURES,
    ),
    Question(
        "Do SAGAN's parts add to the plain map, where features are good?",
        (
            ("sagan_features", "brainomaly_features_14"),
            ("sagan_features_place", "sagan_features"),
            ("sagan_features_sinusoidal", "sagan_features"),
            ("sagan_features_attention", "sagan_features"),
            ("sagan_features_rope", "sagan_features_attention"),
        ),
        GAN_ON_FEATURES,
    ),
    Question(
        "Does a GAN add to features?",
        _each(" ".join(map(with_features, ADDED)), BAR),
        GAN_ADDS,
    ),
    Question(
        "And more than a second score that takes no GAN?",
        tuple((with_features(gan), with_features(control)) for gan, control in ADDED.items()),
        GAN_ADDS,
    ),
    Question(
        "Do the published codes tell places?",
        _each("sagan sagan_learned sagan_sinusoidal", "sagan_no_place"),
        "where place decides",
        ("places",),
    ),
    Question(
        "Do codes that act tell places?",
        (
            ("sagan_place_acts", "sagan"),
            ("sagan_learned_acts", "sagan_learned"),
            ("sagan_sinusoidal_acts", "sagan_sinusoidal"),
        ),
        "where place decides",
        ("places",),
    ),
    Question(
        "Does it help not to cut?",
        _each("sagan_whole", "sagan"),
        "where place decides",
        ("places",),
    ),
    Question(
        "What do attention, its encodings and Swin add to that?",
        _each("sagan_attention sagan_swin", "sagan_whole")
        + _each("sagan_rope sagan_alibi sagan_attention_bias", "sagan_attention"),
        "where place decides",
        ("places",),
    ),
)
"""What is asked. A pair follows from what a variant changes, never from a result."""

POOLED = ("nih", "kermany", "fundus_dr")
"""The sets over which an answer is pooled, see `pooled`."""

KNOWN = {
    THESIS: "three seeds of most of its pairs on nih, of four on kermany and fundus_dr: it was cut "
    "out of 'inside SAGAN', all of whose pairs were corrected together before",
    "inside SAGAN": "one seed on the set nih",
    "GANs and others": "results on the committed sets: it is exploratory",
    "where place decides": "the first two of its runs",
    GAN_ON_FEATURES: "a trial of the maps at 7 x 7 places on nih, kermany and fundus_dr with other "
    "seeds, and one seed on nih",
    GAN_ADDS: "sums with two GANs on pixels, by ranks, on nih and fundus_dr",
    "features": "some hundred variants, tried while looking at test labels of the sets nih, "
    "kermany and fundus_dr: on these its intervals flatter",
}
"""What was known when the pairs of a family were written down."""


def asked_of(data: str) -> list[Question]:
    """The questions that are asked of a set: its own, if it has any."""
    own = [question for question in QUESTIONS if data in question.sets]
    return own or [question for question in QUESTIONS if not question.sets]


def pairs_of(data: str) -> Counter[str]:
    """How many pairs each family of a set's questions has, run or not."""
    return Counter(question.family for question in asked_of(data) for _ in question.pairs)
