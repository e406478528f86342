"""What a method costs: parameters, operations as torch counts them, memory, and time."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Memory
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nblib.data.batches import Batch
from nblib.files import digest, root
from nblib.methods.catalogue import entry
from nblib.methods.method import Method, detect_all, encoding
from nblib.results import store, tables, write
from nblib.results.store import Result
from nblib.training import budgets
from nblib.training.loop import PRECISIONS, best_device, chosen_precision, take_step
from nblib.training.runs import code_digest


def networks(method: str, *at: str, size: int = 64, channels: int = 1) -> pd.DataFrame:
    """Parameters and operations of a method, a column for each budget.

    Rows: the trained parameters of each network; the operations (millions) that it takes to score
    an image, and to train with one image of a batch, forward and backward, on average over a step
    of the critic alone and one of both. An operation is a multiplication or an addition in a
    convolution or matrix product; the rest is not counted.
    """
    return pd.DataFrame({budget: _count(method, budget, size, channels) for budget in at})


TURNS = 3
"""How often `timed` times two steps of each method, after one turn to warm up."""

PATIENCE = 20.0
"""Seconds of one method's turns, after which the turn that is going on is the last one: bfloat16,
where a processor emulates it, is many times slower, which one turn tells."""


def timed(*methods: str, budget: str, size: int, channels: int) -> pd.DataFrame:
    """What methods cost at a budget, a row each: as `networks`, and the time of a training step.

    The time is an average over a step of the critic alone and one of both, on noise, in the
    precision that a training here would take; the methods take turns, so that a busy machine slows
    all of them alike, and the fastest turn counts. `relative`: to the first method's.
    """
    turns = {name: _timed_steps(name, budget, size, channels) for name in methods}
    rows = pd.DataFrame({name: _count(name, budget, size, channels) for name in methods}).T
    return rows.join(_in_turns(turns)).rename_axis("method")


def precisions(method: str, budget: str, size: int, channels: int) -> pd.DataFrame:
    """The time of a training step in each precision on this device, in turns as in `timed`.

    A processor without bfloat16 emulates it, and is slower in it.
    """
    turns = {name: _timed_steps(method, budget, size, channels, name) for name in PRECISIONS}
    return _in_turns(turns).rename_axis("precision")


def _in_turns(turns: dict[str, Callable[[], float]]) -> pd.DataFrame:
    """Milliseconds of a training step, and relative to the first, of functions of two steps."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(TURNS + 1):
        for name, turn in turns.items():
            seconds[name].append(turn())
        if max(map(sum, seconds.values())) > PATIENCE:
            break
    fastest = pd.Series({name: min(taken[1:] or taken) for name, taken in seconds.items()})
    table = pd.DataFrame({"ms a step": 500 * fastest, "relative": fastest / fastest.iloc[0]})
    return table.round({"ms a step": 1, "relative": 2})


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


GPU_TFLOPS = 20.0
"""What `thesis_time` takes a GPU to sustain, in 1e12 operations a second: about a third of what an
A100 can do at most in TF32, or a fifteenth of an H100 in bfloat16."""


def cost_table(results: list[Result]) -> pd.DataFrame:
    """A row a method of some results: what it costs at their budget, counted and measured.

    auc: mean over the seeds. parameters: trained ones. score_mflop, train_mflop: of an image.
    memory_mib: of a training step, see `training`. seconds, ms_per_image: of the runs, on
    the device that their configuration names, with whatever ran beside them.
    """
    store.one_set(results)
    config = results[0].config
    rows = []
    for method in dict.fromkeys(result.config["method"] for result in results):
        own = [r.metrics for r in results if r.config["method"] == method]
        counted = count(method, config["budget"], config["size"], config["channels"])
        row = {"method": method, "uses": entry(method).uses}
        row |= {name: np.mean([found[name] for found in own]) for name in ("auc", *tables.COST)}
        row |= {name: counted[name] for name in ("score_mflop", "train_mflop", "memory_mib")}
        rows.append(row)
    return pd.DataFrame(rows)


def write_costs(rows: pd.DataFrame, results: list[Result]) -> pd.DataFrame:
    """`cost_table` of some results as `figures/<set>/<budget>/cost`; returns what is printed."""
    config = results[0].config
    printed = pd.DataFrame(
        {
            "method": rows["method"],
            "AUC": rows["auc"].map("{:.3f}".format),
            "parameters": rows["parameters"].map("{:,.0f}".format),
            "MFLOP to score an image": rows["score_mflop"].map("{:,.0f}".format),
            "MFLOP to train with one": rows["train_mflop"].map("{:,.0f}".format),
            "MiB of a training step": rows["memory_mib"].map("{:,.0f}".format),
            "training s": rows["seconds"].map("{:,.0f}".format),
            "ms an image": rows["ms_per_image"].map("{:,.2f}".format),
        }
    )
    devices = sorted({f"{r.config['device']}, {r.config['threads']} threads" for r in results})
    words = (
        f"Set {config['set']}, budget {config['budget']}. Operations and memory are counted; "
        f"seconds and milliseconds are means over the runs, measured on {'; '.join(devices)}, with "
        "whatever ran beside them. Memory: weights, gradients, Adam's moments, and what autograd "
        "keeps. Features of pretrained networks: distances are not counted."
    )
    words = " ".join([words, *write.shortcut_warning(results)])
    write.save_table(rows, printed, words, results, "cost")
    return printed


def thesis_time(*methods: str, tflops: float = GPU_TFLOPS) -> pd.DataFrame:
    """Hours that a training takes on one GPU at the budget `thesis`: computed, not measured.

    Operations of a step, counted, times the steps, over `tflops` (1e12 operations a second that
    the GPU sustains). What is not counted, such as norms and the optimiser, comes on top.
    """
    rows = {}
    for method in methods:
        given, counted = budgets.arguments(method, "thesis"), count(method, "thesis")
        operations = counted["train_mflop"] * 1e6 * counted["step_images"] * given["steps"]
        rows[method] = {
            "parameters": counted["parameters"],
            "MFLOP to score an image": counted["score_mflop"],
            "MFLOP to train with one": counted["train_mflop"],
            "images of a step": counted["step_images"],
            "steps": given["steps"],
            "MiB of a training step": counted["memory_mib"],
            f"hours at {tflops:g} TFLOP/s": operations / (tflops * 1e12) / 3600,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").round(1)


def count(name: str, budget: str, size: int = 64, channels: int = 1) -> dict:
    """networks (parameters of each, where it has some), parameters, score_mflop; train_mflop of an
    image, step_images, memory_mib (0 untrained).

    Remembered in data/cache, since the published sizes take seconds each.
    """
    memory = Memory(root() / "data" / "cache" / "costs", verbose=0)
    code = code_digest(name) + digest(Path(__file__).read_bytes())
    return memory.cache(_totals)(name, budget, size, channels, code)


def _totals(name: str, budget: str, size: int, channels: int, code: str) -> dict:
    method, image = _of_one_image(name, budget, size, channels)
    of_networks = {part: _trained(network) for part, network in method.named_children()}
    found = {
        "networks": {part: number for part, number in of_networks.items() if number},
        "parameters": _trained(method),
        "score_mflop": _scoring(method, image) / 1e6,
    }
    if not budgets.trains(name):
        return found | dict.fromkeys(("train_mflop", "step_images", "memory_mib"), 0)
    batch_size = budgets.arguments(name, budget, size, channels)["batch_size"]
    operations, memory = training(method, image, batch_size)
    return found | {
        "train_mflop": operations / 1e6,
        "step_images": batch_size * method.batch_size,  # ALAD takes two for each of a batch
        "memory_mib": memory / 2**20,
    }


def training(method: Method, image: torch.Tensor, batch_size: int) -> tuple[float, int]:
    """Operations of a step for each image of a batch, and the bytes that it needs at least.

    The method's batches are of one image; memory is that of a step with `batch_size`: four numbers
    a parameter (weight, gradient, two moments of Adam), and what autograd keeps until the gradient
    of the largest update is taken, which grows with the batch. Both over a step of the critic alone
    and one of both; nothing is updated.
    """
    method.train()
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    # By the storage itself, since on the meta device all lie at address 0; held, so that none is
    # given away meanwhile to another tensor.
    kept: dict[int, torch.UntypedStorage] = {}
    peak = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    def before_gradient() -> None:
        nonlocal peak
        peak = max(peak, sum(storage.nbytes() for storage in kept.values()))
        kept.clear()

    images = encoding(method, image).expand(method.batch_size, -1, -1, -1)
    batch = Batch(images, images, images)
    optimizers = {name: Still(own, before_gradient) for name, own in method.optimizers().items()}
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    method.after_step = lambda step: None  # averages of weights are no products
    with hooks, Counter() as counter:
        for step in (2, 3):  # not the first, at which some look at a number
            take_step(method, optimizers, batch, step)
    memory = 16 * _trained(method) + batch_size * peak
    return counter.total / 2 / method.batch_size, memory


def _of_one_image(name: str, budget: str, size: int, channels: int) -> tuple[Method, torch.Tensor]:
    """A method that trains with one image at a time, or is fitted to noise, and such an image.

    What trains lies on the meta device, where only shapes are computed.
    """
    if budgets.trains(name):
        given = budgets.arguments(name, budget, size, channels, batch_size=1)
        with torch.device("meta"):
            return entry(name).make(**given), torch.zeros(1, channels, size, size)
    method = entry(name).make(**budgets.arguments(name, budget, size, channels))
    side = method.image_size or size
    some = encoding(method, torch.rand(8, channels, side, side))
    method.prepare(some, some.flip(0))
    return method, torch.zeros(1, channels, side, side)


def _count(name: str, budget: str, size: int, channels: int) -> dict[str, str]:
    found = count(name, budget, size, channels)
    rows = {f"parameters of {part}": f"{n:,}" for part, n in found["networks"].items()}
    rows["scoring an image, MFLOP"] = f"{found['score_mflop']:,.0f}"
    if budgets.trains(name):
        rows["training with an image, MFLOP"] = f"{found['train_mflop']:,.0f}"
    return rows


def _trained(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


class Still:
    """In place of an optimiser: says when a gradient is to be taken, and updates nothing."""

    def __init__(self, optimizer: Optimizer, before_gradient: Callable[[], None]):
        self.param_groups, self.zero_grad = optimizer.param_groups, before_gradient

    def step(self) -> None:
        pass


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
    """Operations to score an image; of a search, whose steps are all alike, from the first two."""
    if not method.optimises:
        return _detecting(method, image)
    steps, totals = method.search_steps, []
    for method.search_steps in (1, 2):
        totals.append(_detecting(method, image))
    method.search_steps = steps
    return totals[0] + (steps - 1) * (totals[1] - totals[0])


def _detecting(method: Method, image: torch.Tensor) -> int:
    with Counter() as counter, torch.no_grad():
        method.eval().detect(encoding(method, image))
    return counter.total


def _timed_steps(
    name: str, budget: str, size: int, channels: int, precision: str = ""
) -> Callable[[], float]:
    """A function that takes two steps of a method and gives the seconds that they took."""
    device = best_device()
    precision = chosen_precision(precision, device)
    method = entry(name).make(**budgets.arguments(name, budget, size, channels)).to(device).train()
    optimizers = method.optimizers()
    side = method.image_size or size
    images = torch.rand((method.batch_size, channels, side, side), device=device) * 2 - 1
    images = encoding(method, images)
    batch = Batch(images, images, images)

    def turn() -> float:
        began = time.perf_counter()
        for step in (0, 1):
            take_step(method, optimizers, batch, step, precision)
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return turn
