"""`fit`: the only training loop. It knows no method by name."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from nblib.data.batches import Batch, Batches, HeldOut, step_seed, to_float
from nblib.methods.method import Method, detect_all
from nblib.metrics import aucp
from nblib.progress import progress
from nblib.training.encoded import encoded
from nblib.training.folder import load_checkpoint, save_checkpoint

AUCP_IMAGES = 200
"""How many images of each kind AUCp is computed from, at most."""


class TrainingError(RuntimeError):
    """A number of the training is not finite."""


def best_device() -> str:
    """'cuda' where there is a GPU, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"


PRECISIONS = ("fp32", "bf16")


def usual_precision(device: str) -> str:
    """What a device trains in where nothing else is asked for.

    'bf16' on a GPU that computes in it. On a CPU 'fp32', also where it could do the other: the same
    seed moves by some 0.02 AUC between the two, and numbers should not depend on the processor.
    """
    has_it = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_it else "fp32"


def chosen_precision(asked: str, device: str) -> str:
    """The precision that is asked for, or where that is '' the device's usual one.

    Raises ValueError for one that there is not.
    """
    if asked not in ("", *PRECISIONS):
        raise ValueError(f"precision is '{asked}', but must be {' or '.join(PRECISIONS)}.")
    return asked or usual_precision(device)


def rate_factor(step: int, steps: int, decay: float) -> float:
    """What the rates are multiplied with: 1, then linear to `decay` over the second half."""
    return 1 - (1 - decay) * max(0.0, 2 * step / steps - 1)


def fit(
    method: Method,
    held: HeldOut,
    seed: int = 0,
    checkpoint: Path | None = None,
    choice: str = "last",
    precision: str = "",
    device: str | None = None,
    compile: bool | str = False,
    watch: Callable[[Method, int], None] | None = None,
    what: str = "training",
) -> pd.DataFrame:
    """Train `method` in place, or go on from `checkpoint` where that exists, bit for bit.

    choice: the model that is left in `method`, 'last' or 'aucp' (the checkpoint with the highest
    AUCp). precision: 'fp32' or 'bf16' (autocast; critics stay in fp32); by default see
    `usual_precision`. compile: compile the method's networks in place (True, or the name of a
    backend). watch: called with the method and the number of steps done at every checkpoint, before
    it is saved; its time is not counted, and nothing that it returns is used.

    Returns the history: a row for each few steps with the mean of every term and the mean norm of
    every optimiser's gradient, and AUCp at the checkpoints; the seconds spent stand in
    `attrs["seconds"]`. Raises TrainingError at the first number that is not finite, before
    anything is saved, and RunError where the checkpoint is damaged.
    """
    if choice not in ("last", "aucp"):
        raise ValueError(f"choice is '{choice}', but must be last or aucp.")
    if choice == "aucp" and not (len(held.held_normal) and len(held.held_unlabeled)):
        raise ValueError("choice='aucp' needs held-out known normals and unlabeled images.")
    if choice == "aucp" and method.optimises:
        raise ValueError("choice='aucp' is not for a method that optimises for each image.")
    device = device or best_device()
    precision = chosen_precision(precision, device)
    method.to(device).train()
    began = time.monotonic()
    start, rows, best, spent, steps = 0, [], {"aucp": -1.0}, 0.0, method.steps
    optimizers = method.optimizers()
    saved = None
    if checkpoint and checkpoint.exists():
        saved = load_checkpoint(checkpoint, method, device)
        start, rows, best, spent = saved["step"], saved["rows"], saved["best"], saved["seconds"]
        if saved["finished"]:
            steps = start
        else:
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
    if not saved or start < steps:
        held = encoded(method, held, device)
    normal, unlabeled = held.normal.images, held.unlabeled.images
    if not saved:
        method.prepare(_floats(normal, device), _floats(unlabeled, device), held.normal.patients)
    if compile:
        for network in method.children():
            network.compile(backend="inductor" if compile is True else compile)

    batches = None
    if optimizers and start < steps:
        batches = Batches(normal, unlabeled, method.needs, method.batch_size, seed, device)
    log_every = max(1, min(steps // 100, 100))
    # Ten checkpoints, or five in a short training: each scores hundreds of images.
    between = min(steps // (10 if steps >= 150 else 5), 2000)
    checkpoint_every = log_every * max(4, between // log_every)
    log: list[dict[str, torch.Tensor]] = []

    def save(step: int, finished: bool = False) -> None:
        if checkpoint is None:
            return
        states = {} if finished else {k: o.state_dict() for k, o in optimizers.items()}
        seconds = spent + time.monotonic() - began
        state = dict(step=step, finished=finished, rows=rows, seconds=seconds)
        state |= dict(best={} if finished else best, method=method.state_dict())
        save_checkpoint(checkpoint, state | dict(optimizers=states))

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for step in progress(steps, what, start):
            torch.manual_seed(step_seed(seed, step))
            rate = rate_factor(step, steps, method.decay)
            log.append(take_step(method, optimizers, batches(step), step, precision, rate))

            done = step + 1
            if done % log_every and done < steps:
                continue
            rows.append(_row(log, done))
            log.clear()
            if done % checkpoint_every and done < steps:
                continue
            rows[-1] |= _aucp(method, held)
            if watch:
                paused = time.monotonic()
                watch(method, done)
                began += time.monotonic() - paused
            if choice == "aucp" and rows[-1]["aucp"] > best["aucp"]:
                state = {k: v.clone() for k, v in method.state_dict().items()}
                best = dict(aucp=rows[-1]["aucp"], step=done, method=state)
            if _enough(method, _floats(held.held_normal.images, device)):
                break
            save(done)
    if "method" in best:
        method.load_state(best["method"])
    save(rows[-1]["step"] if rows else 0, finished=True)
    history = pd.DataFrame(rows, columns=None if rows else ["step"])
    history.attrs["seconds"] = spent + time.monotonic() - began
    return history


def take_step(
    method: Method,
    optimizers: dict[str, Optimizer],
    batch: Batch,
    step: int,
    precision: str = "fp32",
    rate: float = 1.0,
) -> dict[str, torch.Tensor]:
    """One step of a training: every update that the method yields, done as it is yielded.

    rate: factor on the rates that the optimisers began with. Returns what is logged, by name: each
    term, and the norm of each gradient; nothing is taken from the device.
    """
    numbers: dict[str, torch.Tensor] = {}
    updates = method.updates(batch, step)
    while (update := next_update(updates, batch.normal.device.type, precision)) is not None:
        name, terms = update
        if name is None:
            numbers |= {term: value.detach() for term, value in terms.items()}
            continue
        optimizer = optimizers[name]
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad()
        sum(terms.values()).backward(inputs=owned)
        norm = nn.utils.get_total_norm([p.grad for p in owned if p.grad is not None])
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * rate
        optimizer.step()
        numbers |= {f"{name}.{term}": value.detach() for term, value in terms.items()}
        numbers[f"{name}.gradient_norm"] = norm
    method.after_step(step)
    return numbers


def next_update(updates: Iterator, device: str, precision: str):
    """The next update, computed in a region of autocast of its own.

    Autocast keeps the low-precision copy of each weight until its region ends: one region round
    two updates would compute the second with the weights from before the first, silently.
    """
    device = "cpu" if device == "meta" else device  # where costs are counted
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        return next(updates, None)


@torch.no_grad()
def _enough(method: Method, held_out: torch.Tensor) -> bool:
    method.eval()
    stop = method.enough(held_out)
    method.train()
    return stop


def _row(log: list[dict[str, torch.Tensor]], done: int) -> dict[str, float]:
    """The mean of each logged number over some steps, in one transfer from the device."""
    names = list(dict.fromkeys(name for numbers in log for name in numbers))
    first = done - len(log)
    values = torch.stack([v.float() for numbers in log for v in numbers.values()]).tolist()
    values = iter(values)
    columns: dict[str, list[float]] = {name: [] for name in names}
    for step, numbers in enumerate(log, first):
        for name in numbers:
            value = next(values)
            if not np.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} at step {step}: the training has diverged. The last "
                    "checkpoint is from before; a lower rate or fp32 may help."
                )
            columns[name].append(value)
    return {"step": done} | {name: float(np.mean(column)) for name, column in columns.items()}


def _aucp(method: Method, held: HeldOut) -> dict[str, float]:
    """AUC of held-out known normals (0) against unlabeled images (1): trained on, and held out.

    The first chooses well, but its value is inflated by learning the unlabeled images by heart;
    the second is honest, with the standard error that its few images give it.
    """

    def scores(part) -> np.ndarray:
        return detect_all(method, part.images[:AUCP_IMAGES]).score

    if method.optimises or not len(held.held_normal) or not len(held.held_unlabeled):
        return {"aucp": np.nan, "aucp_held_out": np.nan, "aucp_held_out_error": np.nan}
    normal = scores(held.held_normal)
    trained_on, unseen = scores(_spread(held.unlabeled)), scores(_spread(held.held_unlabeled))
    honest, error = aucp(normal, unseen)
    return {
        "aucp": aucp(normal, trained_on)[0],
        "aucp_held_out": honest,
        "aucp_held_out_error": error,
    }


def _spread(part):
    """At most AUCP_IMAGES images of a part, evenly spaced: a part may list a class at a time."""
    index = np.linspace(0, len(part) - 1, min(AUCP_IMAGES, len(part)))
    return part[index.round().astype(int)]


def _floats(images: np.ndarray, device: str) -> torch.Tensor:
    return to_float(torch.from_numpy(images).to(device))
