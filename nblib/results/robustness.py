"""What chapter 3 of the thesis predicts and does not test: moved images, lesions, anomaly ratios.

Codes of absolute places should suffer from images that are shifted, turned or of another size more
than those of relative places. Nothing is trained for that: finished runs score moved images.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import rotate
from scipy.stats import spearmanr

from nblib import metrics
from nblib.data import datasets
from nblib.data.datasets import Dataset
from nblib.data.labels import load_labels
from nblib.methods.catalogue import FAMILIES, METHODS, order
from nblib.methods.method import Method, detect_all
from nblib.progress import say
from nblib.results import store, tables, write
from nblib.results.store import Result
from nblib.training import runs
from nblib.training.runs import Run

MOVED_METHODS = [
    name for name, entry in METHODS.items() if FAMILIES[entry.family].trains == "translation"
]
"""Translate images, and can be held against each other: the variants of SAGAN and their kin."""

MOVED_FIRST = ("brainomaly", "sagan", "sagan_rope", "sagan_swin")
"""Those of the budget `quick`, which a newcomer waits for: cut, whole, and with windows."""

SHIFTS = (2, 4, 8)
"""Pixels of images of the set's size."""

ANGLES = (5, 10)
"""Degrees."""

SIZES = (0.75, 1.5)
"""Times the set's size."""

RATIO_METHODS = (
    "known_against_unlabeled",
    "pretrained_logistic",
    "pretrained_fisher",
    "pretrained_mean",
    "healthygan",
    "brainomaly",
    "sagan",
)
RATIOS = (0, 20, 40, 60, 80, 100)
"""Percent of abnormal images among the unlabeled ones."""


def moved_methods(budget: str) -> list[str]:
    """The methods whose runs score moved images at a budget."""
    return list(MOVED_FIRST) if budget == "quick" else MOVED_METHODS


def shifted(images: np.ndarray, pixels: int) -> np.ndarray:
    """Images (n, C, H, W), each shifted by `pixels` to one of four sides, drawn by its place.

    What comes in repeats the edge.
    """
    side = np.random.default_rng(0).integers(0, 4, len(images))
    wide = np.pad(images, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), "edge")
    h, w = images.shape[-2:]
    moves = ((0, 1), (2, 1), (1, 0), (1, 2))
    starts = [(down * pixels, right * pixels) for down, right in (moves[s] for s in side)]
    return np.stack(
        [image[:, y : y + h, x : x + w] for image, (y, x) in zip(wide, starts, strict=True)]
    )


def turned(images: np.ndarray, degrees: float) -> np.ndarray:
    """Images (n, C, H, W), uint8, each turned by `degrees` to a side drawn by its place.

    Bilinear; what comes in repeats the edge.
    """
    sign = np.random.default_rng(0).choice((-1, 1), len(images))
    return np.stack(
        [
            rotate(image, s * degrees, axes=(1, 2), reshape=False, order=1, mode="nearest")
            for image, s in zip(images, sign, strict=True)
        ]
    )


def moved_scores(method: Method, dataset: Dataset) -> dict[str, np.ndarray]:
    """A method's own score of every test image (n,), as it is and moved in each way.

    A size that the method refuses is left out.
    """
    images = dataset.test.images

    def scored(images: np.ndarray) -> np.ndarray:
        return detect_all(method, images).score

    found = {"as it is": scored(images)}
    found |= {f"shift {pixels}": scored(shifted(images, pixels)) for pixels in SHIFTS}
    found |= {f"turn {degrees}": scored(turned(images, degrees)) for degrees in ANGLES}
    for size in (round(times * dataset.size) for times in SIZES):
        try:
            found[f"size {size}"] = scored(dataset.at(size).test.images)
        except ValueError as refused:
            say(f"size {size}: {refused}")
    return found


def score_moved(dataset: Dataset, budget: str, seed: int) -> Path:
    """Score the moved test images by each finished run of `moved_methods`, in one file.

    `data/runs/<set>/<budget>/moved-seed<k>.csv`: image, patient, label, method, a column a way.
    """

    def of(run: Run) -> pd.DataFrame:
        return run.test[["image", "patient", "label"]].assign(**moved_scores(run.method(), dataset))

    return _score_once_more("moved", of, moved_methods(budget), dataset, budget, seed)


def score_mirrored(dataset: Dataset, budget: str, seed: int) -> Path:
    """Score the normal test images by each finished run, as they are and mirrored left to right.

    `data/runs/<set>/<budget>/mirrored-seed<k>.csv`: image, patient, label, method, score, mirrored.
    """

    def of(run: Run) -> pd.DataFrame:
        method, test = run.method(), run.test
        images = dataset.at(method.image_size or dataset.size).test.images
        normal = (test["label"] == 0).to_numpy()
        mirrored = detect_all(method, np.ascontiguousarray(images[normal][..., ::-1])).score
        found = test.loc[normal, ["image", "patient", "label", "score"]]
        return found.assign(mirrored=mirrored)

    return _score_once_more("mirrored", of, METHODS, dataset, budget, seed)


def _score_once_more(
    name: str,
    of: Callable[[Run], pd.DataFrame],
    methods: Iterable[str],
    dataset: Dataset,
    budget: str,
    seed: int,
) -> Path:
    runs_found = store.finished(dataset, budget, methods, seed)
    tables = [of(run).assign(method=run.config["method"]) for run in runs_found]
    if not tables:
        raise FileNotFoundError(
            f"There is no finished run of {', '.join(methods)} on '{dataset.name}' at "
            f"{budget}, seed {seed}. Make them: make figures DATA={dataset.name} BUDGET={budget}"
        )
    return store.write_pass(store.pass_file(name, dataset.name, budget, seed), tables)


def mirrored(results: list[Result]) -> pd.DataFrame:
    """Whether a method tells normal images (0) from their mirror images (1): a row a method.

    auc: mean over the seeds, 0.5 for one that does not mind sides; low, high: 95 % interval over
    resampled patients, whose images and mirror images stay together. Empty where none was scored.
    """
    areas: dict[str, list[float]] = {}
    resampled: dict[str, list[np.ndarray]] = {}
    for result, table in store.of_pass("mirrored", results):
        method = result.config["method"]
        labels = np.repeat([0, 1], len(table))
        # The same pixels in another order add up to the same but for rounding: no difference.
        rounding = 1e-4 * table["score"].std()
        same = np.isclose(table["mirrored"], table["score"], rtol=0, atol=rounding)
        scores = np.concatenate([table["score"], np.where(same, table["score"], table["mirrored"])])
        patients = np.tile(table["patient"].to_numpy(str), 2)
        weights = metrics.patient_weights(labels, patients)
        areas.setdefault(method, []).append(metrics.auc(labels, scores))
        resampled.setdefault(method, []).append(metrics.weighted_auc_ap(labels, scores, weights)[0])
    rows = []
    for method in sorted(areas, key=order):
        area = float(np.mean(areas[method]))
        every = np.mean(resampled[method], 0)
        low, high = metrics.bounded_interval(area, every, labels, patients)
        row = {"method": method, "seeds": len(areas[method]), "auc": area}
        rows.append(row | {"auc_low": low, "auc_high": high})
    return pd.DataFrame(rows).round(9)  # so that 0.5 is 0.5


def write_mirrored(rows: pd.DataFrame, results: list[Result]) -> pd.DataFrame:
    """`mirrored` as `figures/<set>/<budget>/mirrored`; what is printed of it, if anything."""
    if rows.empty:
        return rows
    printed = pd.DataFrame(
        {
            "method": rows["method"],
            "seeds": rows["seeds"],
            "AUC of mirrored against as they are": [
                write.between(row, "auc") for _, row in rows.iterrows()
            ],
        }
    )
    words = (
        "Normal test images against themselves, "
        "mirrored left to right, by finished runs: 0.5 where a method does not mind that left and "
        "right are exchanged. 95 % interval over patients."
    )
    return write.save_pass(rows, printed, words, results, "mirrored")


def mirrored_in_words(rows: pd.DataFrame) -> str:
    """What `mirrored` says, in a sentence or two."""
    if rows.empty:
        return ""
    sees = rows[(rows["auc_low"] > 0.5) | (rows["auc_high"] < 0.5)]
    listed = ", ".join(f"`{row.method}` {row.auc:.3f}" for row in sees.itertuples())
    most = rows.loc[(rows["auc"] - 0.5).abs().idxmax()]
    acts = rows[rows["method"].str.endswith("_acts")]
    codes = (
        f" Of {len(acts)} whose place code acts, {(acts['auc_low'] > 0.5).sum()} find the mirror "
        "image the more abnormal one, as who uses places to know sides would."
    ) * bool(len(acts))
    found = f": {listed} (each by its own interval, of which one in twenty errs)" * bool(listed)
    return (
        f"{len(sees)} of {len(rows)} methods tell a normal image from its mirror image better or "
        f"worse than by chance{found}. The farthest from 0.5 is `{most.method}`, "
        f"{most.auc:.3f}.{codes}"
    )


def moved(results: list[Result]) -> pd.DataFrame:
    """What moving the images does to each method: a row a method, means over the seeds.

    auc: as they are; a column a way with the change of AUC, and one, 'rank ...', with Spearman's
    correlation of the scores with those of the images as they are. Empty where nothing was scored.
    """
    rows = []
    for result, table in store.of_pass("moved", results):
        ways = table.drop(columns=["image", "patient", "label", "method"])
        ways = ways.dropna(axis="columns", how="all")
        areas = {name: metrics.auc(table["label"], s) for name, s in ways.items()}
        as_it_is = areas.pop("as it is")
        row = {"method": result.config["method"], "auc": as_it_is}
        row |= {name: area - as_it_is for name, area in areas.items()}
        ranks = {f"rank {n}": spearmanr(ways["as it is"], ways[n])[0] for n in areas}
        rows.append(row | ranks)
    return store.over_seeds(rows)


def write_moved(rows: pd.DataFrame, results: list[Result]) -> pd.DataFrame:
    """`moved` as `figures/<set>/<budget>/moved`; returns what is printed, empty without scores."""
    if rows.empty:
        return rows
    printed = pd.DataFrame(
        {
            "method": rows["method"],
            "seeds": rows["seeds"],
            "AUC as it is": rows["auc"].map("{:.3f}".format),
        }
    )
    for name in rows.columns[3:]:
        form = "{:.2f}" if name.startswith("rank") else "{:+.3f}"
        printed[name] = ["" if pd.isna(value) else form.format(value) for value in rows[name]]
    words = (
        "Test images shifted by pixels to a side drawn for each, turned by degrees, or read at "
        "another size: change of AUC, and (rank) Spearman's correlation of the scores with those "
        "of the images as they are. Means over the seeds that were scored, which may be fewer than "
        "in other tables. Nothing was trained for this; an empty cell is a size that the method "
        "refuses."
    )
    return write.save_pass(rows, printed, words, results, "moved")


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """The changes of AUC of `moved`, by method, to be drawn."""
    if rows.empty:
        return rows
    ways = [name for name in rows if name.startswith(("shift", "turn", "size"))]
    return rows.set_index("method")[ways]


def by_lesion(results: list[Result], data: str | Path) -> pd.DataFrame:
    """Detection and localisation by kind and size of lesion: a row a method, means over the seeds.

    Columns (what, group): AUC of the images with such a lesion against all normal ones, and the
    share of them whose map is highest inside it (pointing; NaN without maps). Sizes are thirds
    of the images by the area of their largest lesion. Empty where the set that was scored is not at
    hand, or has no lesions.csv.
    """
    try:
        dataset = datasets.load(data)
        labels = load_labels(dataset)
    except datasets.DatasetError:
        return pd.DataFrame()
    results = [result for result in results if result.config["data"] == dataset.fingerprint]
    if labels.lesions is None or not results:
        return pd.DataFrame()
    names, ill = dataset.test.names, labels.test == 1
    lesions = labels.lesions[labels.lesions["image"].isin(names[ill])]
    largest = lesions.groupby("image")["area"].max().rank(method="first")
    groups = {kind: np.isin(names, of["image"]) for kind, of in lesions.groupby("kind")}
    if len(largest) >= 3:
        third = pd.qcut(largest, 3, labels=["small", "middle", "large"])
        groups |= {
            size: np.isin(names, of.index) for size, of in third.groupby(third, observed=True)
        }
    rows = []
    for result in results:
        scores = result.test["score"].to_numpy()
        row = {("", "method"): result.config["method"]}
        maps = result.run.test_map if result.run else None
        mapped = maps is not None and labels.masks is not None
        hits = metrics.pointing_hits(maps, labels.masks) if mapped else None
        for name, of_group in groups.items():
            compared = ~ill | of_group
            row["AUC", name] = metrics.auc(ill[compared], scores[compared])
            if mapped:
                row["pointing", name] = hits[of_group & ill].mean()
        rows.append(row)
    table = pd.DataFrame(rows)
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table.groupby(("", "method"), sort=False).mean().rename_axis("method")


def areas(table: pd.DataFrame) -> pd.DataFrame:
    """The AUCs of `by_lesion`, to be drawn."""
    return table if table.empty else table["AUC"]


def run_ratio(
    data: str, budget: str, method: str, percent: int, seed: int, precision: str = ""
) -> Run:
    """Train with an unlabeled mix of which `percent` are abnormal, as variant `ratio<percent>`.

    The mix has the same size at every ratio, and that of a smaller ratio lies in that of a larger
    one, as far as abnormal images go (`datasets.load`).
    """
    dataset = datasets.load(data, unlabeled_ratio=percent / 100)
    return runs.run(method, dataset, budget, seed, variant=f"ratio{percent}", precision=precision)


def mixes(data: str | Path, budget: str) -> list[Result]:
    """The finished runs of `run_ratio`; none where there are none."""
    try:
        return store.collect(data, budget, "ratio[0-9]*")
    except FileNotFoundError:
        return []


def ratios(results: list[Result]) -> pd.DataFrame:
    """AUC and AP of `mixes` at each anomaly ratio: method, percent, seeds, auc, ap.

    *_low, *_high: their 95 % interval over patients, as in `tables.table`. abnormal: their share in
    the test part, which is the AP of chance. Empty where there are no results.
    """
    if not results:
        return pd.DataFrame()
    store.one_set(results)
    rows = []
    for percent in sorted({result.config["variant"] for result in results}):
        of = [result for result in results if result.config["variant"] == percent]
        labels, patients, methods = tables.resampled(of)
        for method, found in methods.items():
            row = {"method": method, "percent": int(percent.removeprefix("ratio"))}
            row |= tables.with_intervals(found, labels, patients)
            rows.append(row | {"abnormal": labels.mean(), "seeds": len(found.area)})
    rows.sort(key=lambda row: (order(row["method"]), row["percent"]))
    return pd.DataFrame(rows)


def write_ratios(rows: pd.DataFrame, results: list[Result]) -> pd.DataFrame:
    """`ratios` as `figures/<set>/<budget>/ratios`; returns what is printed: AUC, a row a method."""
    if rows.empty:
        return rows
    config = results[0].config
    areas = [write.between(row, "auc") for _, row in rows.iterrows()]
    cells = rows.assign(area=areas).pivot(index="method", columns="percent", values="area")
    printed = cells.fillna("").loc[rows["method"].unique()].rename(columns="{} %".format)
    printed.insert(0, "seeds", rows.groupby("method")["seeds"].min())
    printed = printed.rename_axis(columns=None).reset_index()
    words = (
        f"Set {config['set']}, budget {config['budget']}. AUC by the share of abnormal images in "
        "an unlabeled mix of constant size, drawn once for all seeds: mean over the seeds, 95 % "
        "interval over patients."
    )
    write.save_table(rows, printed, words, results, "ratios")
    return printed
