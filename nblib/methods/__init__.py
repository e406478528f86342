"""All methods by name; a new one is one file and one line here."""

from functools import partial

from nblib.methods import trivial
from nblib.methods.alad import ALAD
from nblib.methods.alocc import ALOCC
from nblib.methods.anogan import AnoGAN
from nblib.methods.brainomaly import Brainomaly
from nblib.methods.ganomaly import GANomaly
from nblib.methods.healthygan import HealthyGAN
from nblib.methods.pretrained import PretrainedKNN, PretrainedLogistic
from nblib.methods.sagan import SAGAN

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
    # use the unlabeled mix as well
    "known_against_unlabeled": trivial.KnownAgainstUnlabeled,
    "pretrained_logistic": PretrainedLogistic,
    "pretrained_logistic_64": partial(PretrainedLogistic, enlarge=True),
    "healthygan": HealthyGAN,
    "brainomaly": Brainomaly,
    "sagan": SAGAN,
    "sagan_place_acts": partial(SAGAN, place_acts=True),
}
