"""The folder of one run, `data/runs/<set>/<budget>/<method>/<variant>/seed<k>/`.

    config.json     everything that fixes the result, and what it was made with
    checkpoint.pt   weights; while training also what is needed to go on
    history.csv     losses, gradient norms, AUCp by step; empty for methods that do not train
    watched.csv     scores of test images (at most `WATCHED`) at each checkpoint, to be looked at
                    afterwards; nothing is chosen by it
    scores.csv      image, patient, part, label (empty where it is not known), score, its
                    percentile among held-out normals (NaN where none were held out), and a
                    method's further scores
    maps.npz        heat maps of the test part and of held-out normals, restored test images
    SHA256SUMS      the digests of all these files, of which none is read that has changed since
    metrics.json    numbers with intervals; written last: where it is, all is there

`run` trains, resumes or reuses. One process writes a run at a time.
"""

import ast
import dataclasses
import functools
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nblib import metrics
from nblib.data.batches import HeldOut
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels, load_labels
from nblib.files import (
    RunError,
    digest,
    in_a_line,
    one_writer,
    root,
    some,
    unused,
    write_json,
    written_whole,
)
from nblib.methods.catalogue import companions, entry
from nblib.methods.method import Method, detect_all
from nblib.progress import say
from nblib.training import budgets
from nblib.training.encoded import encode_all
from nblib.training.folder import (
    AGAIN,
    CHECKPOINT,
    begin_again,
    check_history,
    check_kinds,
    is_listed,
    load_checkpoint,
    read,
    write_last,
)
from nblib.training.loop import best_device, chosen_precision, fit

TRAINING_SOURCES = (
    "data/batches.py",
    "data/datasets.py",
    "methods/encodings.py",
    "data/images.py",
    "methods/layers.py",
    "methods/losses.py",
    "methods/method.py",
    "data/split.py",
    "training/encoded.py",
    "training/loop.py",
)
"""Files that every training depends on, beside the method's own."""


CONFIG = {
    **dict.fromkeys(("set", "budget", "method", "variant", "code"), str),
    **dict.fromkeys(("seed", "size", "channels"), int),
    "arguments": dict,
}
"""What a configuration has to say at least, and as what."""

METRICS = dict.fromkeys(("auc", "ap"), float) | dict.fromkeys(("images", "patients", "steps"), int)
"""What metrics are, where they are there."""


UNFIT = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
"""What a method raises whose arguments make no sense to it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its folder where asked.

    What is read raises RunError where its file is missing, damaged, or not as it was written.
    """

    folder: Path

    @functools.cached_property
    def config(self) -> dict:
        return read(self.folder / "config.json", _config)

    @functools.cached_property
    def metrics(self) -> dict:
        return read(self.folder / "metrics.json", _metrics)

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        return read(self.folder / "history.csv", _history)

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        return scores_of(self.folder / "scores.csv", self.metrics, "metrics.json")

    @functools.cached_property
    def test(self) -> pd.DataFrame:
        """The rows of `scores` of the test images, in their order, numbered from 0."""
        return test_part(self.scores)

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """Scores of the held-out known normals (n,)."""
        return self.scores.loc[self.scores["part"] == "held_out_normal", "score"].to_numpy()

    @functools.cached_property
    def watched(self) -> pd.DataFrame:
        """Scores of at most `WATCHED` test images, (images, checkpoints), by name and step."""
        return _watched(self.folder / "watched.csv")

    @functools.cached_property
    def test_map(self) -> np.ndarray | None:
        """Heat maps of the test images (n, H, W), >= 0; None where the method makes none."""
        return self._array("test_map")

    @functools.cached_property
    def held_map(self) -> np.ndarray | None:
        """Heat maps of the held-out known normals (n, H, W), >= 0; None where there are none."""
        return self._array("held_map")

    @functools.cached_property
    def test_restored(self) -> np.ndarray | None:
        """Restored test images (n, C, H, W), in [-1, 1]; None where the method restores none."""
        return self._array("test_restored")

    def _array(self, name: str) -> np.ndarray | None:
        def load(file: Path) -> np.ndarray | None:
            with np.load(file) as maps:
                return maps[name].astype(np.float32) if name in maps else None

        return read(self.folder / "maps.npz", load)

    def method(self) -> Method:
        """The trained method, in evaluation mode, on the CPU."""
        method = self._made()
        load_checkpoint(self.folder / CHECKPOINT, method)
        return method

    def untrained(self) -> Method:
        """The method as it was before its training, in evaluation mode, on the CPU."""
        torch.manual_seed(self.config["seed"])
        return self._made()

    def beside(self, method: str) -> "Run | None":
        """The finished run of another method on the same set, budget and seed, if there is one."""
        data, budget, seed = (self.config[name] for name in ("set", "budget", "seed"))
        here = run_folder(data, budget, method, seed)
        return Run(here) if (here / "metrics.json").exists() else None

    def _made(self) -> Method:
        try:
            return entry(self.config["method"]).make(**self._arguments()).eval()
        except UNFIT as error:
            why = in_a_line(error)
            file = self.folder / "config.json"
            raise RunError(f"{file} describes no method of this version: {why}. {AGAIN}") from None

    def _arguments(self) -> dict:
        written = self.config["arguments"]
        now = budgets.arguments(
            self.config["method"], self.config["budget"], self.config["size"],
            self.config["channels"],
        )  # fmt: skip
        if unknown := [name for name in written if name not in now]:
            file, names = self.folder / "config.json", some(unknown)
            say(f"{file}: {names} is unknown to this version, and makes no difference here")
        # Parts are written by name; what is no part is taken from the file as it stands. An
        # argument that came later has its default.
        return {
            name: written[name] if written.get(name, _plain(value)) != _plain(value) else value
            for name, value in now.items()
        }


COLUMNS = ("image", "patient", "part", "label", "score")


def test_part(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of a run's scores of the test images, in the set's order, numbered from 0."""
    return scores[scores["part"] == "test"].reset_index(drop=True)


def read_scores(
    file: Path, then: str = AGAIN, columns: Iterable[str] = (), words: Iterable[str] | None = None
) -> pd.DataFrame:
    """scores.csv or scores.csv.gz: names and patients stay text, such as '007'.

    Raises RunError where it is missing or damaged, or has not these columns, or no row, or, where
    the columns of `words` are named, others than numbers in the rest; then: what to do about it.
    """

    def load(file: Path) -> pd.DataFrame:
        scores = pd.read_csv(file, dtype={"image": str, "patient": str})
        missing = [name for name in columns if name not in scores]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        if scores.empty:
            raise ValueError("it has no row")
        if words is not None:
            scores.drop(columns=list(words)).apply(pd.to_numeric)
        return scores

    return read(file, load, then)


def check_config(config: dict) -> None:
    """Raise ValueError where a configuration does not say what it has to."""
    check_kinds(config, CONFIG)


def check_metrics(found: dict) -> None:
    """Raise ValueError where the metrics of a run are none."""
    check_kinds(found, {name: kind for name, kind in METRICS.items() if name in found})


def scores_of(file: Path, found: dict, beside: str, then: str = AGAIN) -> pd.DataFrame:
    """`read_scores` of a finished run. found: its metrics, in the file `beside` it.

    Raises RunError where the metrics were worked out from other scores.
    """
    scores = read_scores(file, then, COLUMNS)
    test = test_part(scores)
    fits = len(test) == found.get("images", len(test))
    if fits and "auc" in found:
        labels, values = (pd.to_numeric(test[name], "coerce") for name in ("label", "score"))
        known = labels.isin([0, 1]).all() and np.isfinite(values).all()
        fits = known and np.isclose(metrics.auc(labels, values), found["auc"], rtol=0, atol=1e-6)
    if not fits:
        raise RunError(f"{file} and {beside} beside it are of two runs. {then}")
    return scores


def run_folder(data: str, budget: str, method: str, seed: int, variant: str = "base") -> Path:
    """Where a run lies; `data` is the set's name."""
    return root() / "data" / "runs" / data / budget / method / variant / f"seed{seed}"


def run(
    method: str,
    dataset: Dataset,
    budget: str,
    seed: int = 0,
    variant: str = "base",
    choice: str = "last",
    held_out: float = 0.1,
    precision: str = "",
    **overrides,
) -> Run:
    """Train a method of the catalogue and score a set, or take the finished run from its folder.

    A run that was cut off goes on from its last checkpoint. `variant` names a run whose size,
    ratio, parts or other arguments (`overrides`) differ from the budget's. choice: see
    `loop.fit`. held_out: share of images kept from training, see `Dataset.hold_out`. precision:
    'fp32', 'bf16', or '' for what the device trains in by default, see `loop.usual_precision`; a
    method that does not train has none.

    Raises RunError where the folder holds a finished run of another configuration, DatasetError
    for masks, boxes or lesions that are none, before anything is trained.
    """
    plain = int | float | str | tuple | None
    parts = [name for name, value in overrides.items() if not isinstance(value, plain)]
    if parts:
        raise ValueError(f"{', '.join(parts)}: parts are chosen in the catalogue, not here.")
    if "unlabeled" in entry(method).needs and not len(dataset.unlabeled):
        raise ValueError(
            f"{method} learns from unlabeled images as well, and {dataset.name} has none."
        )
    device = best_device()
    chosen = chosen_precision(precision, device)
    precision = chosen if budgets.trains(method) else ""
    arguments = budgets.arguments(method, budget, dataset.size, dataset.channels, **overrides)
    identity = {
        "set": dataset.name,
        "budget": budget,
        "method": method,
        "variant": variant,
        "seed": seed,
        "choice": choice,
        "held_out": held_out,
        "size": dataset.size,
        "channels": dataset.channels,
        "precision": precision,
        "data": dataset.fingerprint,
        "conversion": dataset.conversion,
        "arguments": {name: _plain(value) for name, value in arguments.items()},
    }
    made_with = {
        "code": code_digest(method),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": importlib.metadata.version("scikit-learn"),
        },
    }
    here = run_folder(dataset.name, budget, method, seed, variant)
    with one_writer(here.with_suffix(".lock")):
        if _is_finished(here, identity, made_with["code"]):
            return Run(here)
        # What is wrong with masks or boxes is said before hours of training, which sees none of it.
        labels = load_labels(dataset)
        torch.manual_seed(seed)
        model = entry(method).make(**arguments)
        seen = dataset.at(model.image_size or dataset.size)
        held = seen.hold_out(seed, held_out)
        begin_again(here)
        write_json(here / "config.json", identity | made_with)
        history = fit(
            model,
            held,
            seed,
            here / CHECKPOINT,
            choice,
            precision,
            watch=_watcher(here, seen) if _watchable(model, seen) else None,
            what=f"{method} on {dataset.name}",
        )
        with written_whole(here / "history.csv", "w") as file:
            history.to_csv(file, index=False)
        _evaluate(here, model, dataset, labels, seen, held, history)
    return Run(here)


def made_beside(finished: Run, dataset: Dataset) -> list[Run]:
    """The runs that a run is to be shown beside, on the same images: see `catalogue.companions`.

    Reference and pretrained features are made where they are missing: neither trains a network.
    Of what the method was made from those are there that are finished.
    """
    method, budget, seed = (finished.config[name] for name in ("method", "budget", "seed"))
    against = entry(method).against
    shown = [
        finished.beside(name) if name in against else run(name, dataset, budget, seed)
        for name in companions(method)
        if name != method
    ]
    return [found for found in shown if found]


def sources(method: str) -> list[Path]:
    """The source files that the training of a method depends on, its own first.

    Last those of other methods that it is made of.
    """
    found = entry(method)
    modules = [getattr(part, "__module__", "") for part in (found.kind, *found.fixed.values())]
    own = [
        f"{m.removeprefix('nblib.').replace('.', '/')}.py" for m in modules if "nblib.methods" in m
    ]
    package = Path(__file__).parents[1]
    files = [package / name for name in dict.fromkeys((*own, *TRAINING_SOURCES))]
    for file in files:  # which grows meanwhile
        files += [other for other in _methods_behind(file) if other not in files]
    return files


@functools.cache
def _methods_behind(file: Path) -> list[Path]:
    """The files of `nblib.methods` that a file imports from, in order."""
    imports = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ImportFrom)]
    names = [n.module for n in imports if (n.module or "").startswith("nblib.methods.")]
    return [Path(__file__).parents[1] / "methods" / f"{n.split('.')[-1]}.py" for n in names]


def code_digest(method: str) -> str:
    """A digest of what `sources(method)` do.

    Comments, docstrings and layout do not count, nor does where in the package a name comes from.
    """
    trees = [ast.parse(file.read_text()) for file in sources(method)]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                node.body = [line for line in body if not _says_nothing(line)]
    return digest(*(ast.dump(tree).encode() for tree in trees))


def _says_nothing(node: ast.AST) -> bool:
    """Whether a line of code is a docstring, or an import from this package."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").startswith("nblib")
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_finished(here: Path, identity: dict, code: str) -> bool:
    """Whether `here` holds this very run; what cannot be gone on with is set aside, not lost."""
    finished = (here / "metrics.json").exists()
    if not finished and not any((here / f).exists() for f in ("config.json", CHECKPOINT)):
        return False
    try:
        config = Run(here).config
    except RunError:
        if finished:
            raise
        config = {"arguments": {}, "code": None}  # not to be gone on with
    # Arguments that came later, or have gone, say nothing against a run of before.
    given = {k: v for k, v in config["arguments"].items() if k in identity["arguments"]}
    config |= {"arguments": identity["arguments"] | given}
    if not identity["precision"]:
        config["precision"] = ""  # which was written down of every run, once
    config.setdefault("conversion", identity["conversion"])  # and this of none
    other = [name for name, value in identity.items() if config.get(name) != value]
    if finished and other:
        raise RunError(
            f"{here} holds a finished run with another {', '.join(other)}. Give this one a name "
            "of its own (variant=...), or move that folder away."
        )
    if finished:
        if config["code"] != code:
            say(f"{here.name}: made by another version of the code; move {here} to make it anew")
        return True
    if other or config["code"] != code:
        aside = unused(here.with_name(f"{here.name}.aside"))
        here.rename(aside)
        say(f"An unfinished run of another configuration or code was set aside as {aside}")
    return False


def _watchable(model: Method, dataset: Dataset) -> bool:
    return not model.optimises and len(dataset.test) > 0


WATCHED = 500
"""How many test images are scored at each checkpoint, at most; all are scored at the end."""


def _watcher(here: Path, dataset: Dataset) -> Callable[[Method, int], None]:
    """Notes the scores of some test images at a checkpoint. A resumed training notes them again.

    They are a sample of the set's, the same for every run of it.
    """
    n = len(dataset.test)
    index = np.sort(np.random.default_rng(0).choice(n, min(n, WATCHED), replace=False))
    encoded = []  # once, at the first checkpoint

    def watch(model: Method, step: int) -> None:
        table = _watched(here / "watched.csv")
        table = table.loc[:, [done for done in table if done < step]]
        encoded[:] = encoded or [encode_all(model, dataset.test.images[index], best_device())]
        scores = detect_all(model, encoded[0]).score
        table = pd.concat([table, pd.Series(scores, dataset.test.names[index], name=step)], axis=1)
        with written_whole(here / "watched.csv", "w") as file:
            table.rename_axis("image").to_csv(file)

    return watch


def _watched(file: Path) -> pd.DataFrame:
    if not file.exists() and not is_listed(file):
        return pd.DataFrame()

    def load(file: Path) -> pd.DataFrame:
        table = pd.read_csv(file, dtype={"image": str}).set_index("image")
        return table.astype(float).rename(columns=int)

    return read(file, load)


def _config(file: Path) -> dict:
    config = json.loads(file.read_text())
    check_config(config)
    here, names = file.parent.resolve(), ("set", "budget", "method", "seed", "variant")
    own = run_folder(*(config[name] for name in names))
    # A folder elsewhere, or one that was put aside with a dot behind its name, may be called so.
    if (
        here.is_relative_to(root() / "data" / "runs")
        and here.with_name(here.name.split(".")[0]) != own
    ):
        raise ValueError(f"it is of another run, {own}")
    return config


def _metrics(file: Path) -> dict:
    found = json.loads(file.read_text())
    check_metrics(found)
    return found


def _history(file: Path) -> pd.DataFrame:
    history = pd.read_csv(file)
    check_history(history)
    return history


def _evaluate(
    here: Path, model: Method, dataset: Dataset, labels: Labels, seen: Dataset, held: HeldOut,
    history: pd.DataFrame,
) -> None:  # fmt: skip
    """Score every part, and write scores, maps and metrics, in this order.

    seen: the set at the size that the method sees. Maps are kept at the set's own size, to which
    those of larger images are averaged.
    """
    all_normal = np.zeros(len(held.held_normal), int)
    parts = {
        "held_out_normal": (held.held_normal, all_normal),
        "unlabeled": (seen.unlabeled, labels.unlabeled),
        "test": (seen.test, labels.test),
    }
    tables, maps, ms_per_image = [], {}, None
    for part, (images, label) in parts.items():
        if not len(images):
            continue
        began = time.monotonic()
        found = detect_all(model, images.images)
        spent = time.monotonic() - began
        first, *others = found.scores
        columns = {"image": images.names, "patient": images.patients, "part": part}
        label = pd.array(label, "Int64")
        label[label < 0] = pd.NA
        columns |= {"label": label, "score": found.scores[first]}
        tables.append(pd.DataFrame(columns | {name: found.scores[name] for name in others}))
        if part == "test":
            ms_per_image = round(1000 * spent / len(images), 4)
            # Half precision: a map is looked at and ranked, in 64 x 64 pixels by the thousand.
            maps |= {"test_map": found.map, "test_restored": found.restored}
        elif part == "held_out_normal":
            maps |= {"held_map": found.map}
    scores = pd.concat(tables)
    of_held_out = scores.loc[scores["part"] == "held_out_normal", "score"].to_numpy()
    scores.insert(5, "percentile", metrics.percentile(scores["score"].to_numpy(), of_held_out))
    maps = {k: _averaged(v, dataset.size) for k, v in maps.items() if v is not None}
    kept = {k: v.astype(np.float16) for k, v in maps.items()}
    with written_whole(here / "scores.csv", "w") as file:
        scores.to_csv(file, index=False)
    with written_whole(here / "maps.npz") as file:
        np.savez_compressed(file, **kept)
    numbers = metrics.detection(scores)
    if labels.masks is not None and "test_map" in kept:
        as_kept = kept["test_map"].astype(np.float32)
        numbers |= metrics.localisation(
            as_kept, labels.masks, labels.annotated, dataset.test.patients
        )
    numbers |= _guide(scores, held)
    numbers |= {
        "score": first,
        "seconds": round(history.attrs["seconds"], 2),
        "ms_per_image": ms_per_image,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "steps": int(history["step"].max()) if len(history) else 0,
    }
    write_last(here / "metrics.json", numbers)


def _guide(scores: pd.DataFrame, held: HeldOut) -> dict:
    """AUC of held-out known normals against held-out unlabeled images, which needs no label.

    aucp_held_out, and its standard error; none where nothing was held out.
    """
    normal = scores.loc[scores["part"] == "held_out_normal", "score"]
    unlabeled = scores[scores["part"] == "unlabeled"]
    unlabeled = unlabeled.loc[unlabeled["image"].isin(held.held_unlabeled.names), "score"]
    if not len(normal) or not len(unlabeled):
        return {}
    area, error = metrics.aucp(normal, unlabeled)
    return {"aucp_held_out": area, "aucp_held_out_error": error}


def _averaged(images: np.ndarray, size: int) -> np.ndarray:
    """(..., H, W) -> (..., size, size), each pixel the mean of the area that it covers."""
    if images.shape[-1] == size:
        return images
    flat = torch.from_numpy(images).reshape(-1, 1, *images.shape[-2:])
    small = torch.nn.functional.interpolate(flat, (size, size), mode="area")
    return small.reshape(*images.shape[:-2], size, size).numpy()


def _plain(value):
    """A constructor argument as config.json keeps it: classes and functions by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return getattr(value, "__name__", value)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.machine()


def _commit() -> str | None:
    """The commit of the project that runs, where it is a git checkout, and git is there."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return answer.stdout.strip() or None
