"""What a method costs: its parameters, and the floating point operations that torch counts."""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nblib import budgets
from nblib.batches import Batch
from nblib.methods import METHODS
from nblib.methods.method import Method, detect_all
from nblib.training import best_device


def networks(method: str, *at: str, size: int = 64, channels: int = 1) -> pd.DataFrame:
    """Parameters and operations of a method, a column for each budget.

    Rows: the trained parameters of each network; the operations (millions) that it takes to score
    an image, and to train with one image of a batch, forward and backward, on average over a step
    of the critic alone and one of both. An operation is a multiplication or an addition in a
    convolution or matrix product; the rest is not counted.
    """
    return pd.DataFrame({budget: _count(method, budget, size, channels) for budget in at})


TURNS = 3
"""How often `compared` times two steps of each method, after one turn to warm up."""


def compared(*methods: str, budget: str, size: int = 64, channels: int = 1) -> pd.DataFrame:
    """What methods cost at a budget, a row each: as `networks`, and the time of a training step.

    The time is an average over a step of the critic alone and one of both, on noise; the methods
    take turns, so that a busy machine slows all of them alike, and the fastest turn counts.
    `relative`: to the first method's.
    """
    turns = {name: _turn(name, budget, size, channels) for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(TURNS + 1):
        for name, turn in turns.items():
            seconds[name].append(turn())
    rows = {
        name: _count(name, budget, size, channels) | {"ms a step": 500 * min(seconds[name][1:])}
        for name in methods
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    table["relative"] = (table["ms a step"] / table["ms a step"].iloc[0]).round(2)
    return table.round({"ms a step": 1})


def throughput(method: Method, images: np.ndarray, *batch_sizes: int) -> pd.DataFrame:
    """Images (n, C, H, W), uint8, that a method scores in a second, by the size of the batch.

    Measured one after the other in this process, on one batch, or on four images where it is
    smaller.
    """
    detect_all(method, images[:1])
    rows = {}
    for size in batch_sizes:
        some = images[: max(4, size)]
        began = time.perf_counter()
        detect_all(method, some, size)
        rows[size] = {"images a second": len(some) / (time.perf_counter() - began)}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("batch")
    table["ratio"] = table["images a second"] / table["images a second"].iloc[0]
    return table.round(2)


def _count(name: str, budget: str, size: int, channels: int) -> dict[str, str]:
    overrides = {"batch_size": 1} if _trains(name) else {}
    method = METHODS[name](**budgets.arguments(name, budget, size, channels, **overrides))
    side = method.image_size or size
    image = torch.zeros(1, channels, side, side)
    if not _trains(name):
        some = torch.rand(8, channels, side, side)
        method.prepare(some, some.flip(0))
    rows = {f"parameters of {part}": _trained(net) for part, net in method.named_children()}
    rows = {what: f"{number:,}" for what, number in rows.items() if number}
    rows["scoring an image, MFLOP"] = f"{_scoring(method, image) / 1e6:,.0f}"
    if _trains(name):
        rows["training with an image, MFLOP"] = f"{_training(method, image) / 1e6:,.0f}"
    return rows


def _trains(name: str) -> bool:
    return "batch_size" in budgets.arguments(name, "thesis")


def _trained(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


class Counter(TorchDispatchMode):
    """Adds up the operations of what runs inside it, each by torch's own formula.

    Torch's FlopCounterMode also follows modules, and stops at a gradient taken inside a training
    step, as the gradient penalty takes one.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def _scoring(method: Method, image: torch.Tensor) -> int:
    # A search on a slow machine would say how far it is.
    with Counter() as counter, torch.no_grad(), redirect_stdout(io.StringIO()):
        method.eval().detect(image)
    return counter.total


def _training(method: Method, image: torch.Tensor) -> float:
    method.train()
    optimizers = method.optimizers()
    images = image.expand(method.batch_size, -1, -1, -1)
    with Counter() as counter:
        for step in (0, 1):
            _take_step(method, optimizers, Batch(images, images, images), step)
    return counter.total / 2 / method.batch_size


def _turn(name: str, budget: str, size: int, channels: int) -> Callable[[], float]:
    """A function that takes two steps of a method and gives the seconds that they took."""
    device = best_device()
    method = METHODS[name](**budgets.arguments(name, budget, size, channels)).to(device).train()
    optimizers = method.optimizers()
    images = torch.rand((method.batch_size, channels, size, size), device=device) * 2 - 1
    batch = Batch(images, images, images)

    def turn() -> float:
        began = time.perf_counter()
        for step in (0, 1):
            _take_step(method, optimizers, batch, step)
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return turn


def _take_step(method: Method, optimizers: dict, batch: Batch, step: int) -> None:
    for name, terms in method.updates(batch, step):
        if name is not None:
            groups = optimizers[name].param_groups
            owned = [p for group in groups for p in group["params"]]
            optimizers[name].zero_grad()
            sum(terms.values()).backward(inputs=owned)
            optimizers[name].step()
