"""The files of a run's folder: what was written is what is read, or a sentence says what is wrong.

`SHA256SUMS` beside them lists their digests, as `sha256sum --check` reads it: of a finished run all
files, of a training that goes on its checkpoints alone. Where an earlier version wrote no list,
they are read as they are.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import pandas as pd
import torch

from nblib.files import RunError, as_json, in_a_line, must_be_file, written_whole
from nblib.methods.method import Method
from nblib.progress import say

T = TypeVar("T")

SUMS, CHECKPOINT = "SHA256SUMS", "checkpoint.pt"

PARTS = {"step": int, "finished": bool, "rows": list, "seconds": float}
PARTS |= dict.fromkeys(("best", "method", "optimizers"), dict)
"""What a checkpoint holds, by name, and as what."""

AGAIN = "Move the folder away and run again."


def read(file: Path, by: Callable[[Path], T], then: str = AGAIN, checked: bool = True) -> T:
    """What `by` makes of a file. then: what to do where it cannot. checked: by its digest, first.

    Raises RunError where the file is missing, is not as it was written, or cannot be read.
    """
    try:
        must_be_file(file)
        listed = _listed(file)
        if checked and (listed or _lists_all(file.parent)) and _sha256(file) not in listed:
            raise RunError(f"{file} is not as it was written: {SUMS} lists another file. {then}")
        return by(file)
    except (RunError, MemoryError, torch.OutOfMemoryError):
        raise
    except FileNotFoundError:
        raise RunError(f"{file} is missing. {then}") from None
    except Exception as error:  # a damaged file makes NumPy, pandas and torch raise nearly anything
        why = getattr(error, "strerror", None) or in_a_line(error)
        raise RunError(f"{file} cannot be read: {why}. {then}") from None


def check_kinds(found: dict, kinds: dict[str, type]) -> None:
    """Raise ValueError where what was read does not say, by name, what it has to."""
    if not isinstance(found, dict):
        raise ValueError("it says nothing by name")
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise ValueError(f"it says no valid {', '.join(wrong)}")


def check_history(history: pd.DataFrame) -> None:
    """Raise ValueError where a history is none."""
    if "step" not in history or (
        len(history) and not history.dtypes.map(pd.api.types.is_numeric_dtype).all()
    ):
        raise ValueError("it is no table of numbers by step")


def is_listed(file: Path) -> bool:
    """Whether the digest of a file was written down, so that `read` finds any change of it."""
    return bool(_listed(file))


def save_checkpoint(file: Path, state: dict) -> None:
    """Write a checkpoint, and its digest.

    The digest is listed first, and those of the checkpoints before it stay listed: whatever kills
    this between the two writes, the checkpoint that lies there is one that is listed.
    """
    before = _listed(file) or ([_sha256(file)] if file.exists() else [])
    with written_whole(file, "w+b") as out:
        torch.save(state, out)
        out.seek(0)
        _write(file.parent, [(of, file.name) for of in (*before, _digest(out))])


def begin_again(folder: Path) -> None:
    """Let no digest stand but those of checkpoints: the other files are about to be written."""
    if listed := _listed(folder / CHECKPOINT):
        _write(folder, [(of, CHECKPOINT) for of in listed])
    else:
        (folder / SUMS).unlink(missing_ok=True)


def load_checkpoint(file: Path, method: Method, device: str = "cpu") -> dict:
    """What `save_checkpoint` wrote, on a device; its weights go into the method.

    Raises RunError as `read` does, and where a weight is not finite or of another method, or the
    training cannot be gone on with. The file can hold tensors, but run nothing.
    """

    def load(file: Path) -> dict:
        saved = _loaded(file, device)
        best = [saved["best"]["method"]] if "method" in saved["best"] else []
        for state in (*best, saved["method"]):
            for name, tensor in state.items():
                if not tensor.isfinite().all():
                    raise ValueError(f"numbers in '{name}' are not finite")
            method.load_state(state)
        if not saved["finished"]:
            _check_resumable(saved, method)
        return saved

    saved = read(file, load)
    if not is_listed(file):
        say(f"{file}: an earlier version wrote it without a digest, so that it is read unchecked")
    return saved


def glance(file: Path) -> dict:
    """A checkpoint that may be written anew meanwhile, mapped: its weights are not read.

    Raises RunError where it is none.
    """
    return read(file, lambda file: _loaded(file, mmap=True), checked=False)


def _loaded(file: Path, device: str = "cpu", mmap: bool = False) -> dict:
    saved = torch.load(file, map_location=device, weights_only=True, mmap=mmap)
    check_kinds(saved, PARTS)
    check_history(pd.DataFrame(saved["rows"] or {"step": []}))
    return saved


def _check_resumable(saved: dict, method: Method) -> None:
    """Raise where the method, with its weights of a checkpoint, cannot be trained on from it."""
    if not 0 <= saved["step"] <= method.steps:
        raise ValueError(f"its step is {saved['step']}, of {method.steps}")
    check_kinds(saved["best"], {"aucp": float})
    optimizers = method.optimizers()
    check_kinds(saved["optimizers"], dict.fromkeys(optimizers, dict))
    for name, optimizer in optimizers.items():
        own = [_settings(group) for group in optimizer.param_groups]
        optimizer.load_state_dict(saved["optimizers"][name])
        if [_settings(group) for group in optimizer.param_groups] != own:
            raise ValueError(f"its optimizer {name} has other settings, such as its rate")
        for weights, state in optimizer.state.items():
            if any(tensor.dim() and tensor.shape != weights.shape for tensor in state.values()):
                raise ValueError(f"its optimizer {name} is of other weights")


def _settings(group: dict) -> dict:
    """Of a group of an optimiser, with the rate that it began with."""
    rate = group.get("initial_lr", group["lr"])
    changing = ("params", "lr", "initial_lr")
    return {name: value for name, value in group.items() if name not in changing} | {"lr": rate}


def write_last(file: Path, value: dict) -> None:
    """Write the last file of a run as JSON, and the digests of all files in its folder.

    The digests come first: where the last file is, they are those of the run that it ends.
    """
    with written_whole(file) as out:
        text = as_json(value).encode()
        out.write(text)
        others = [f for f in file.parent.iterdir() if f.is_file() and f.name[0] != "."]
        sums = {f.name: _sha256(f) for f in others if f.name not in (SUMS, file.name)}
        sums[file.name] = hashlib.sha256(text).hexdigest()
        _write(file.parent, [(of, name) for name, of in sorted(sums.items())])


def _listed(file: Path) -> list[str]:
    return [of for of, name in _lines(file.parent) if name == file.name]


def _lists_all(folder: Path) -> bool:
    """Whether a list is there, and not of checkpoints alone: a file that it leaves out is wrong."""
    return (folder / SUMS).is_file() and {name for _, name in _lines(folder)} != {CHECKPOINT}


def _lines(folder: Path) -> list[tuple[str, str]]:
    sums = folder / SUMS
    lines = sums.read_text(errors="replace").splitlines() if sums.is_file() else []
    return [(of, name) for of, _, name in (line.partition("  ") for line in lines)]


def _write(folder: Path, lines: list[tuple[str, str]]) -> None:
    with written_whole(folder / SUMS, "w") as out:
        out.writelines(f"{of}  {name}\n" for of, name in lines)


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return _digest(content)


def _digest(content: IO[bytes]) -> str:
    return hashlib.file_digest(content, "sha256").hexdigest()
