"""All methods by name; a new one is one file and one line here."""

from functools import partial

from nblib.encodings import Alibi2d, LearnedPlace, NoPosition, RelativeBias, Rope2d, Sinusoidal2d
from nblib.layers import ClosedGate, OpenGate
from nblib.methods import trivial
from nblib.methods.alad import ALAD
from nblib.methods.alocc import ALOCC
from nblib.methods.anogan import AnoGAN
from nblib.methods.brainomaly import Brainomaly
from nblib.methods.ganomaly import GANomaly
from nblib.methods.healthygan import HealthyGAN
from nblib.methods.pretrained import PretrainedKNN, PretrainedLogistic
from nblib.methods.sagan import SAGAN
from nblib.methods.swin import SwinEncoder, swin_decoder

# Place codes stand in generator and critic, sinusoids also behind the first layer. Attention comes
# without a place code and without patches: what it can do, it does over the whole image.
_sinusoidal = partial(SAGAN, place=Sinusoidal2d, critic_place=Sinusoidal2d, added=Sinusoidal2d)
_learned = partial(SAGAN, place=LearnedPlace, critic_place=LearnedPlace)
_whole = partial(SAGAN, grid=1, place=None)

METHODS = {
    # learn from nothing, or from known normals
    "mean_intensity": partial(trivial.Statistic, statistic=trivial.mean_intensity),
    "vertical_gradient": partial(trivial.Statistic, statistic=trivial.vertical_gradient),
    "intensity_distance": partial(trivial.StatisticDistance, statistic=trivial.mean_intensity),
    "gradient_distance": partial(trivial.StatisticDistance, statistic=trivial.vertical_gradient),
    "mean_image": trivial.MeanImage,
    "pca16": partial(trivial.PCAResidual, components=16),
    "pca64": partial(trivial.PCAResidual, components=64),
    "nearest_normals": trivial.NearestNormals,
    "pretrained_knn": PretrainedKNN,
    "pretrained_knn_64": partial(PretrainedKNN, enlarge=True),
    "anogan": AnoGAN,
    "alad": ALAD,
    "alocc": ALOCC,
    "ganomaly": GANomaly,
    "sagan_no_unlabeled": partial(SAGAN, needs=("normal", "pseudo")),
    # use the unlabeled mix as well
    "known_against_unlabeled": trivial.KnownAgainstUnlabeled,
    "pretrained_logistic": PretrainedLogistic,
    "pretrained_logistic_64": partial(PretrainedLogistic, enlarge=True),
    "healthygan": HealthyGAN,
    "brainomaly": Brainomaly,
    "sagan": SAGAN,
    "sagan_place_acts": partial(SAGAN, place_acts=True),
    "sagan_sinusoidal": _sinusoidal,
    "sagan_sinusoidal_acts": partial(_sinusoidal, place_acts=True),
    "sagan_learned": _learned,
    "sagan_learned_acts": partial(_learned, place_acts=True),
    "sagan_rope": partial(_whole, position=Rope2d),
    "sagan_alibi": partial(_whole, position=Alibi2d),
    "sagan_attention_bias": partial(_whole, position=RelativeBias),
    "sagan_swin": partial(_whole, encoder=SwinEncoder, decoder=swin_decoder),
    # controls: what the variants change beside the encoding, one thing at a time
    "sagan_no_place": partial(SAGAN, place=None),
    "sagan_whole": _whole,
    "sagan_attention": partial(_whole, position=NoPosition),
    "sagan_no_gates": partial(SAGAN, gate=OpenGate),
    "sagan_no_skips": partial(SAGAN, gate=ClosedGate),
    "sagan_no_pseudo": partial(SAGAN, needs=("normal", "unlabeled")),
}
