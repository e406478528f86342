"""Pictures in which nothing but the place of a mark decides: normal on the left, not on the right.

Of 32 x 32 pixels, grey, with one to three soft bright discs, each well inside one of the four
quadrants, which are SAGAN's patches: what a patch shows is the same for both classes. In a normal
picture all discs lie in the left half, in an abnormal one of the unlabeled mix exactly one lies in
the right half. The test part is made of twins: normal pictures, and each again with its halves
exchanged, so that all of its discs lie on the right; both are of one patient.

Two harder sets move the border: `places_middle`, normal in the left half of each patch, and
`places_outer`, normal in the outer quarters; their twins have the halves of each patch exchanged.

The set tests a mechanism, not usefulness: the distance to the nearest known normals solves it.
Precedents: DigitAnatomy (Xiang et al., SQUID, 2023), the logical anomalies of MVTec LOCO
(Bergmann et al. 2022).
"""

import numpy as np
import pandas as pd

from nblib.data.drawn import Drawn, write_drawn

DRAWING = 1
"""Counts the versions of what is drawn."""

SIZE, QUADRANT = 32, 16
GREY, NOISE = 100, 2.0
"""Of the ground, of 255. More noise drowns the marks for a critic: 6 to 8 cost half of the AUC."""

MARKS = (1, 3)
INSIDE, RADIUS, CONTRAST = (4.5, 10.5), (2.5, 4.0), (80.0, 140.0)
"""A disc's middle, pixels from its quadrant's corner: none crosses the cut between quadrants."""


QUARTERS = {"middle": ((0, 2), (1, 3)), "outer": ((0, 3), (1, 2))}
"""Border -> the quarters of the width, from the left, where discs belong, and where not."""

IN_A_QUARTER, SMALL = (3.25, 4.75), (2.0, 2.75)
"""A disc's middle from the left of its quarter, and its radius, where quarters decide."""


def picture(
    rng: np.random.Generator, wrong: int = 0, border: str = "halves"
) -> tuple[np.ndarray, np.ndarray]:
    """One picture, uint8 (32, 32), of whose discs `wrong` lie where none should; their mask, bool.

    border: 'halves', or a key of `QUARTERS`.
    """
    number = rng.integers(max(MARKS[0], wrong), MARKS[1] + 1)
    sides = np.arange(number) < wrong
    discs = np.stack([_disc(rng, side, border) for side in sides])
    grey = GREY + discs.max(0) + NOISE * rng.standard_normal((SIZE, SIZE))
    mask = (discs[sides] > CONTRAST[0] / 2).any(0)
    return grey.round().clip(0, 255).astype(np.uint8), mask


def _disc(rng: np.random.Generator, wrong: bool, border: str) -> np.ndarray:
    """The light of a soft disc on the one side of the border, or on the other."""
    across, radius = INSIDE, RADIUS
    corner = QUADRANT * wrong
    if border != "halves":
        across, radius = IN_A_QUARTER, SMALL
        corner = QUADRANT // 2 * rng.choice(QUARTERS[border][int(wrong)])
    x = corner + rng.uniform(*across)
    y = QUADRANT * rng.integers(2) + rng.uniform(*INSIDE)
    pixels = np.arange(SIZE) + 0.5
    distance = np.hypot(pixels[None, :] - x, pixels[:, None] - y)
    return rng.uniform(*CONTRAST) * np.clip(0.5 + rng.uniform(*radius) - distance, 0, 1)


def exchanged(image: np.ndarray, border: str = "halves") -> np.ndarray:
    """A picture (32, 32) with its halves exchanged, or those of each of its patches."""
    if border == "halves":
        return np.roll(image, SIZE // 2, axis=1)
    return np.roll(image.reshape(SIZE, 2, QUADRANT), QUADRANT // 2, axis=2).reshape(SIZE, SIZE)


def draw(
    n_normal: int, n_abnormal: int, seed: int = 0, first_patient: int = 0, border: str = "halves"
) -> Drawn:
    """Pictures of a patient each, the normal ones first."""
    rows = [
        picture(np.random.default_rng([seed, first_patient + i]), int(i >= n_normal), border)
        for i in range(n_normal + n_abnormal)
    ]
    return _drawn(rows, range(first_patient, first_patient + len(rows)), [0] * len(rows))


def twins(n: int, seed: int = 0, first_patient: int = 0, border: str = "halves") -> Drawn:
    """n normal pictures, each with its twin behind it. Which view is normal is drawn for each."""
    rows, patients, views = [], [], []
    for patient in range(first_patient, first_patient + n):
        rng = np.random.default_rng([seed, patient])
        image, none = picture(rng, border=border)
        view, twin = int(rng.integers(2)), exchanged(image, border)
        rows += [(image, none), (twin, twin > GREY + CONTRAST[0] / 2)]
        patients += [patient, patient]
        views += [view, 1 - view]
    return _drawn(rows, patients, views)


def _drawn(rows: list[tuple], patients, views: list[int]) -> Drawn:
    images, masks = (np.stack(column) for column in zip(*rows, strict=True))
    lesions = pd.DataFrame({"kind": "mark", "area": masks.mean((1, 2))})
    return Drawn(
        images, masks, lesions[lesions["area"] > 0], [str(patient) for patient in patients], views
    )


def write_places(folder, seed=0, known_normal=600, unlabeled=(300, 300), test=500, border="halves"):
    """Write the set in the Med-AD layout and return its folder, see `drawn.write_drawn`.

    unlabeled: (normal, abnormal) counts; test: pairs of twins.
    """

    def parts():
        first = known_normal + sum(unlabeled)
        return [
            draw(known_normal, 0, seed, 0, border),
            draw(*unlabeled, seed, known_normal, border),
            twins(test, seed, first, border),
        ]

    return write_drawn(folder, parts, seed, DRAWING)
