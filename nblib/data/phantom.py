"""Chest-like radiographs drawn from a few formulae, with exact lesion masks.

The phantom shows methods at work, with masks, in about a minute each. It is not a benchmark:
drawing and the budget `quick` were shaped together so that the GANs of this project can be seen to
work, and so no ranking of methods and no verdict of any kind is ever drawn from it. Films are hard,
since SAGAN learns less on grey ones in this time (`22_sagan`), and the bowels hold gas of every
extent, a variety that is normal: without it principal components alone find what is abnormal.

Attenuation is summed along parallel rays (soft tissue and bone add, lung air takes away), then
come scatter, blur, quantum noise and the exposure curve; dense is bright. Shapes live in
coordinates relative to the picture: x runs from -1 (left edge, the patient's right side) to 1,
y from -1 (top) to 1, so that one seed shows the same picture at every size. Each picture is drawn
at twice its size and averaged: many lines are thinner than a pixel.
"""

import itertools
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pandas as pd

from nblib.data.drawn import Drawn, write_drawn

DRAWING = 2
"""Counts the versions of what is drawn: a set of another one is drawn anew."""

# Ranges drawn once per patient: lengths in picture coordinates, the rest relative.
BODY = {
    "depth": (0.85, 1.3),
    "torso": (0.86, 1.15),
    "shoulder": (-0.78, -0.62),
    "neck": (0.17, 0.24),
    "breast": (-0.25, 0.4),
    "lung_x": (0.38, 0.44),
    "lung_half": (0.29, 0.36),
    "lung_top": (-0.78, -0.66),
    "dome": (0.34, 0.46),
    "dome_lift": (0.0, 0.08),
    "dome_bend": (0.8, 1.8),
    "bubble": (-0.1, 0.3),
    "heart_x": (0.07, 0.13),
    "heart_half": (0.25, 0.35),
    "heart_tilt": (0.3, 0.7),
    "arch": (0.07, 0.12),
    "vessels": (0.06, 0.18),
    "vessel_phase": (0, 2 * np.pi),
    "bone": (0.2, 2.0),
    "spine": (0.06, 0.085),
    "spine_bend": (-0.03, 0.03),
    "rib_phase": (0, 1),
    "rib_gap": (0.125, 0.16),
    "rib_slope": (0.5, 0.9),
    "clavicle": (-0.58, -0.48),
    "clavicle_rise": (-0.1, 0.25),
}
# Ranges drawn once per view: pose, marker and cable, exposure.
VIEW = {
    "angle": (-0.07, 0.07),
    "across": (-0.09, 0.09),
    "down": (-0.09, 0.09),
    "scale": (0.88, 1.12),
    "arm": (0.05, 0.5),
    "letter": (-1, 1),
    "letter_x": (0.72, 0.88),
    "letter_y": (-0.9, -0.7),
    "wire": (-1, 0.4),
    "wire_x": (-0.6, 0.6),
    "wire_y": (-0.5, 0.3),
    "wire_sway": (-0.1, 0.1),
    "wire_slope": (-0.5, 0.5),
    "scatter": (0.3125, 0.3875),
    "blur": (0.006, 0.016),
    "grain": (0.0006, 0.0024),
    "level": (-0.0675, 0.0675),
    "latitude": (0.38, 0.44),
    "field_x": (0.9, 1.6),
    "field_y": (0.92, 1.6),
}
# Lead letters with an empty rim, in pixels of 0.03.
LETTERS = {
    "R": np.pad(np.float32([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1]]), 1),
    "L": np.pad(np.float32([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]), 1),
}


def draw(n_normal, n_abnormal, size=128, seed=0, first_patient=0):
    """Draw the pictures of consecutive patients until both counts are met, as `Drawn`.

    About half of the patients are ill and a quarter have two views; one view of an ill patient
    may be normal. With n_abnormal=0 ill patients are left out altogether. A picture depends on
    seed, patient, view and size, never on the counts. Raises ValueError for a negative argument
    or a size below 32.
    """
    if size < 32 or min(n_normal, n_abnormal) < 0:
        raise ValueError(f"size {size} below 32 or a negative count: {n_normal}, {n_abnormal}")
    roster = _roster(n_normal, n_abnormal, seed, first_patient)
    images, masks = np.zeros((2, len(roster), size, size), np.uint8)
    kinds = []
    for row, (patient, view, abnormal) in enumerate(roster):
        images[row], masks[row], kind = radiograph(patient, view, abnormal, size, seed)
        kinds.append(kind)
    masks = masks.astype(bool)
    lesions = pd.DataFrame({"kind": kinds, "area": masks.mean(axis=(1, 2))})
    lesions = lesions[lesions["kind"].notna()]
    patients, views = [str(patient) for patient, _, _ in roster], [view for _, view, _ in roster]
    return Drawn(images, masks, lesions, patients, views)


def radiograph(patient, view, abnormal, size=128, seed=0):
    """Draw one view of one patient, with or without this patient's lesion.

    Both share anatomy, pose, exposure and noise. Returns the image (uint8, (size, size)), the
    mask (bool, (size, size)) and the kind of lesion (a key of LESIONS, None without a lesion).
    Raises ValueError for a negative patient, view or seed.
    """
    body, rng = _sample(_stream(seed, patient, 0), BODY), _stream(seed, patient, 3 + view)
    pose = _sample(rng, VIEW)
    across, down = _grid(2 * size)
    field = _field(pose, across, down)
    x, y = _rotated(across, down, pose)
    lungs, air = _lungs(body, x, y)
    heart = _heart(body, x, y)
    tissue = _soft(body, pose, x, y) + _bones(body, x, y, lungs) + _vessels(body, x, y, air)
    tissue += body.depth * (0.1 * heart - air * (1 - 0.85 * heart))
    mask, kind = np.zeros_like(field, bool), None
    if abnormal:
        history = _stream(seed, patient, 1)
        kind = str(history.choice(list(LESIONS)))
        lesion = LESIONS[kind](history, body, x, y, body.depth * air * (1 - 0.85 * heart))
        tissue += lesion
        mask = (lesion > 0.2 * lesion.max()) & (field > 0.5)
    tissue -= _gas(_stream(seed, patient, 5 + view), body, x, y)
    tissue += _extras(pose, across, down)
    grey = 8 + 239 / 255 * field * _expose(rng, np.maximum(tissue, 0), body, pose)
    return _halved(grey).round().astype(np.uint8), _halved(mask) >= 0.5, kind


def _halved(picture):
    """Average squares of four pixels."""
    height, width = picture.shape
    return picture.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def write_phantom(folder, size=32, seed=0, known_normal=300, unlabeled=(75, 225), test=(200, 200)):
    """Write the data set in the Med-AD layout and return its folder, see `drawn.write_drawn`.

    unlabeled and test are (normal, abnormal) counts; no patient is in two parts. Raises ValueError
    as `draw` does.
    """

    def parts():
        found, first = [], 0
        for n_normal, n_abnormal in ((known_normal, 0), unlabeled, test):
            found.append(draw(n_normal, n_abnormal, size, seed, first))
            first = max([first] + [int(patient) + 1 for patient in found[-1].patients])
        return found

    return write_drawn(folder, parts, seed, DRAWING)


def _stream(seed, patient, use):
    """Return a random stream of its own for each patient and use, so that counts don't matter.

    Uses: 0 anatomy, 1 lesion, 2 which views are abnormal, 3 and 4 the views, 5 and 6 their gas.
    """
    return np.random.Generator(np.random.PCG64([seed, patient, use]))


def _sample(rng, ranges):
    return SimpleNamespace(**{name: rng.uniform(*limits) for name, limits in ranges.items()})


def _roster(n_normal, n_abnormal, seed, first_patient):
    """List (patient, view, abnormal) until both counts are met."""
    left, roster = [n_normal, n_abnormal], []
    for patient in itertools.count(first_patient):
        if not any(left):
            return roster
        history = _history(_stream(seed, patient, 2))
        if any(history) and not n_abnormal:
            continue
        for view, abnormal in enumerate(history):
            if left[abnormal]:
                left[abnormal] -= 1
                roster.append((patient, view, abnormal))


def _history(rng):
    """Return for each view of a patient whether it is abnormal."""
    ill, twice = bool(rng.random() < 0.5), rng.random() < 0.25
    # Either view may be the normal one, so that a view's number says nothing about its class.
    both = [(True, True), (True, False), (False, True)][rng.integers(3)] if ill else (False, False)
    return both if twice else (ill,)


@lru_cache(maxsize=4)
def _grid(size):
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    return centres[None, :], centres[:, None]


def _rotated(across, down, pose):
    """Carry picture coordinates into the body's."""
    x, y = (across - pose.across) / pose.scale, (down - pose.down) / pose.scale
    sine, cosine = float(np.sin(pose.angle)), float(np.cos(pose.angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _step(distance, width=0.02):
    """Rise from 0 (outside) to 1 (inside) between -width and width."""
    return np.minimum(np.maximum(0.5 + distance * (0.5 / width), 0), 1)


def _tube(offset, radius):
    """Return the thickness, 0 to 1, of a tube or ball at this offset from its middle."""
    return np.sqrt(np.maximum(1 - np.square(offset / radius), 0))


def _diaphragm(body, x):
    inward = np.abs(x) - body.lung_x + 0.08
    return body.dome + body.dome_lift * np.minimum(np.sign(x), 0) + body.dome_bend * inward**2


def _lungs(body, x, y):
    """Return the rib cage's inside, 0 (rim) to 1, and its share of air above the diaphragm."""
    half = body.lung_half * (1 + 0.25 * y)
    inside = np.hypot((np.abs(x) - body.lung_x) / half, (y - 0.12) / (0.12 - body.lung_top))
    inside = _tube(inside, 1)
    return inside, 0.75 * inside * _step(_diaphragm(body, x) - y)


def _heart(body, x, y, growth=1.0):
    """Return where heart and great vessels stand in front of the lungs, 0 to 1."""
    half = body.heart_half * growth
    right, low = x - body.heart_x * growth, y - body.dome + 0.55 * half
    along, aside = right + body.heart_tilt * low, low - body.heart_tilt * right
    chamber = _step(1 - np.hypot(along / (1.2 * half), aside / (0.9 * half)), 0.1)
    arch = _step(body.arch - np.hypot(x - 0.07, y + 0.27))
    stem = _step(0.1 + 0.2 * np.maximum(y + 0.3, 0) - np.abs(x - 0.03), 0.03)
    return np.maximum(np.maximum(chamber, arch), stem)


def _soft(body, pose, x, y):
    """Return the soft tissue of torso, neck, arms, breasts and belly, less windpipe and stomach."""
    side = np.abs(x)
    top = body.shoulder - 0.25 * np.exp(-np.square(side / 0.22)) + 0.3 * side**4
    torso = _tube(x, body.torso * (1 - 0.12 * y)) * _step(y - top, 0.04)
    neck = 0.7 * _tube(x, body.neck) * _step(body.shoulder + 0.1 - y, 0.1)
    axis = side - body.torso - 0.02 - pose.arm * (y - body.shoulder)
    arm = 0.5 * _tube(axis, 0.15) + 0.2 * body.bone * _tube(axis, 0.045)
    outline = np.maximum(torso, np.maximum(neck, arm * _step(y - body.shoulder - 0.15, 0.06)))
    breast = max(body.breast, 0) * _tube(np.hypot(side - 0.4, y - 0.2), 0.32)
    belly = 0.3 * _step(y - _diaphragm(body, x), 0.03) * torso
    stomach = np.hypot((x - 0.3) / 1.6, y - body.dome - 0.17)
    windpipe = _step(0.045 - side, 0.015) * _step(-0.2 - y, 0.03)
    hollow = max(body.bubble, 0) * _tube(stomach, 0.08) + 0.12 * windpipe
    middle = 0.12 * np.exp(-np.square(x / 0.12)) * outline
    return body.depth * (outline + breast + belly + middle - hollow)


def _gas(rng, body, x, y):
    """Return the gas in the bowels, dark and of every extent: variety that is normal."""
    amplitude, tubes = rng.uniform(0, 1.6), []
    for _ in range(rng.integers(0, 25)):
        right, low = rng.uniform(-0.75, 0.75), rng.uniform(0.12, 0.5)
        radius, stretch = rng.uniform(0.05, 0.24), rng.uniform(0.7, 1.4)
        level = _diaphragm(body, right) + low
        tubes.append(_tube(np.hypot((x - right) / stretch, (y - level) * stretch), radius))
    return amplitude * body.depth * np.max(tubes, axis=0, initial=0)


def _bones(body, x, y, lungs):
    """Return spine, ribs (one periodic band for all of them), clavicles and shoulder blades."""
    side = np.abs(x)
    spine = _step(body.spine - np.abs(x - body.spine_bend * np.sin(3 * y)))
    spine = spine * (0.3 + 0.06 * np.cos(2 * np.pi * y / 0.13))
    back = (y - body.rib_slope * np.square(side - 0.2)) / body.rib_gap + body.rib_phase
    front = (y + body.rib_slope * (0.6 - side)) / (1.15 * body.rib_gap) + body.rib_phase
    ribs = 0.12 * _tube(back - np.round(back), 0.28)
    ribs += 0.08 * _tube(front - np.round(front), 0.3) * _step(side - 0.3, 0.06)
    ribs *= np.minimum(3 * lungs, 1) * _step(0.75 - y, 0.2)
    line = body.clavicle - body.clavicle_rise * (side - 0.1) + 0.06 * np.sin(8 * side)
    clavicle = 0.2 * _tube(y - line, 0.035) * _step(side - 0.07) * _step(0.66 - side)
    blade = 0.12 * _step(0.22 - np.hypot(side - 0.74, 0.6 * (y + 0.3)))
    return body.bone * (spine + ribs + clavicle + blade)


def _vessels(body, x, y, air):
    """Return the vessels that fan out from the roots of the lungs."""
    right, low = np.abs(x) - 0.12, y + 0.02
    reach = np.hypot(right, low)
    fan = np.cos(13 * np.arctan2(low, right) + 9 * reach + body.vessel_phase * np.sign(x))
    root = np.exp(-np.square(reach / 0.12))
    return body.vessels * air * (2 * np.square(fan) * np.exp(-reach / 0.25) + 2 * root)


def _nodules(rng, body, x, y, free):
    side, balls = _side(rng), []
    for _ in range(rng.integers(1, 4)):
        middle, level = rng.uniform(-0.03, 0.13), rng.uniform(-0.35, body.dome - 0.2)
        offset = np.hypot(x - side * (body.lung_x + middle), y - level)
        balls.append(_tube(offset, rng.uniform(0.13, 0.20)))
        side = -side
    return 0.70 * body.depth * np.max(balls, axis=0)


def _consolidation(rng, body, x, y, free):
    side, level, blobs = _side(rng), rng.uniform(-0.35, body.dome - 0.15), 0
    for _ in range(5):
        right, low = rng.normal(0.06, 0.096), rng.normal(0, 0.12)
        offset = np.hypot(x - side * (body.lung_x + right), y - level - low)
        blobs = blobs + np.exp(-np.square(offset / rng.uniform(0.084, 0.18)))
    return rng.uniform(0.8, 1.0) * free * np.tanh(2.5 * blobs)


def _effusion(rng, body, x, y, free):
    side, level = _side(rng), body.dome - rng.uniform(0.25, 0.5)
    meniscus = level - 1.5 * np.square(np.maximum(side * x - body.lung_x, 0))
    return 0.95 * free * _step(y - meniscus, 0.03) * (side * x > 0)


def _enlargement(rng, body, x, y, free):
    grown = _heart(body, x, y, rng.uniform(1.5, 1.8)) - _heart(body, x, y)
    return 0.85 * body.depth * _lungs(body, x, y)[1] * np.maximum(grown, 0)


def _side(rng):
    return 1 if rng.random() < 0.5 else -1


# Each takes (rng, body, x, y, free): free is the attenuation that the visible air takes away.
LESIONS = {
    "nodule": _nodules,
    "consolidation": _consolidation,
    "effusion": _effusion,
    "heart": _enlargement,
}


def _expose(rng, tissue, body, pose):
    """Turn attenuation into grey, 0 to 255."""
    size = len(tissue)
    beam = np.exp(-2.5 * tissue)
    fog, sharp = _blur(size, 0.25), _blur(size, pose.blur)
    beam += pose.scatter * (fog @ beam @ fog.T)
    beam = sharp @ beam @ sharp.T
    # A pixel's noise falls with its area, so that shrinking a picture gives the smaller one.
    noise = pose.grain * size / 128 * rng.standard_normal(beam.shape, np.float32)
    dense = -np.log(np.maximum(beam + noise * np.sqrt(beam), 0.005))
    return 255 / (1 + np.exp((1.1 * body.depth + pose.level - dense) / pose.latitude))


def _field(pose, across, down):
    """Return 1 inside the collimator's slightly turned rectangle and 0 outside."""
    wide = _step(pose.field_x - np.abs(across + 0.05 * down), 0.01)
    return wide * _step(pose.field_y - np.abs(down - 0.05 * across), 0.01)


def _blur(size, width):
    """Return the (size, size) matrix that smears columns by a Gaussian of this width."""
    down = _grid(size)[1]
    matrix = np.exp(-0.5 * np.square((down - down.T) / width))
    return matrix / matrix.sum(axis=1, keepdims=True)


def _extras(pose, across, down):
    """Return the lead letter on its side and, now and then, a cable with its electrode."""
    left = pose.letter > 0
    place = pose.letter_x if left else -pose.letter_x
    column = np.clip((across - place) / 0.03 + 1, 0, 4).astype(int)
    row = np.clip((down - pose.letter_y) / 0.03 + 1, 0, 6).astype(int)
    lead = 1.5 * LETTERS["L" if left else "R"][row, column]
    if pose.wire < 0:
        return lead
    low = down - pose.wire_y
    path = pose.wire_x + pose.wire_slope * low + pose.wire_sway * np.sin(4 * low)
    cable = 0.12 * _tube(across - path, 0.02) * (low > 0)
    electrode = 0.25 * _step(0.05 - np.hypot(across - pose.wire_x, low), 0.01)
    return lead + np.maximum(cable, electrode)
