"""All methods by name; a new one is one file and one line here."""

from functools import partial

from nblib.methods import trivial
from nblib.methods.sagan import SAGAN

METHODS = {
    "mean_intensity": partial(trivial.Statistic, statistic=trivial.mean_intensity),
    "vertical_gradient": partial(trivial.Statistic, statistic=trivial.vertical_gradient),
    "intensity_distance": partial(trivial.StatisticDistance, statistic=trivial.mean_intensity),
    "gradient_distance": partial(trivial.StatisticDistance, statistic=trivial.vertical_gradient),
    "mean_image": trivial.MeanImage,
    "pca16": partial(trivial.PCAResidual, components=16),
    "pca64": partial(trivial.PCAResidual, components=64),
    "nearest_normals": trivial.NearestNormals,
    "known_against_unlabeled": trivial.KnownAgainstUnlabeled,
    "sagan": SAGAN,
    "sagan_place_acts": partial(SAGAN, place_acts=True),
}
