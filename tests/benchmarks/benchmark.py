"""What the project's order of work gains over the authors': `make bench`.

Prints, in one run, so that a busy or a slow machine disturbs both sides alike:

- a training cycle of SAGAN (two critic steps, one generator step), ours against the authors'
  order of work: the generator's graph kept in the critic step, three generator passes, gradients
  of the critic computed in the generator step, InstanceNorm2d, torch's LeakyReLU, one parameter
  at a time in Adam; in single precision;
- milliseconds an image at scoring, in batches against one image at a time;
- the same for AnoGAN's search, and without batch norms folded into their convolutions;
- the time to load a decoded set from the cache.

Both sides do the same arithmetic. Sides take turns; a figure is the minimum over the turns.
"""

import argparse
import copy
import time

import torch
from torch import nn
from torch.optim import Adam

from nblib.data import datasets
from nblib.data.batches import Batch
from nblib.methods import anogan
from nblib.methods.layers import LeakyReLU
from nblib.methods.losses import gradient_penalty
from nblib.methods.method import detect_all
from nblib.methods.sagan import SAGAN
from nblib.training.loop import best_device, next_update

DEVICE = best_device()


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 64, 64, device=DEVICE) * 2 - 1


def our_cycle(method: SAGAN, optimizers: dict, batch: Batch, precision: str) -> None:
    """Two steps as `loop.fit` takes them."""
    for step in (0, 1):
        updates = method.updates(batch, step)
        while (update := next_update(updates, DEVICE, precision)) is not None:
            name, terms = update
            optimizers[name].zero_grad()
            parameters = list((method.D if name == "D" else method.G).parameters())
            sum(terms.values()).backward(inputs=parameters)
            optimizers[name].step()


def authors_cycle(method: SAGAN, optimizers: dict, batch: Batch) -> None:
    """The same steps in the authors' order of work."""
    G, D, (n, u, p) = method.G, method.D, batch
    for _ in range(2):
        healthy = G(u).detach()
        loss = D(healthy).mean() - D(n).mean() + 10 * gradient_penalty(D, n, healthy)
        optimizers["D"].zero_grad()
        loss.backward()
        optimizers["D"].step()
    loss = -D(G(u)).mean() + (n - G(n)).abs().mean() + (n - G(p)).square().mean()
    optimizers["G"].zero_grad()
    optimizers["D"].zero_grad()
    loss.backward()
    optimizers["G"].step()


def as_the_authors(module: nn.Module) -> nn.Module:
    """Torch's own instance norm and LeakyReLU in place of ours."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            norm = nn.InstanceNorm2d(child.num_channels, affine=child.affine).to(DEVICE)
            setattr(module, name, norm)
        elif isinstance(child, LeakyReLU):
            setattr(module, name, nn.LeakyReLU(child.slope))
        else:
            as_the_authors(child)
    return module


def fastest(sides: dict, turns: int) -> dict[str, float]:
    """Seconds of each side, the minimum over some turns after one to warm up."""
    seconds = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: min(values[1:]) for name, values in seconds.items()}


def training(width: int, batch_size: int, turns: int, bf16: bool) -> None:
    batch = Batch(images(batch_size), images(batch_size), images(batch_size))

    def side(cycle, authors: bool, *args):
        method = SAGAN(width=width).to(DEVICE).train()
        optimizers = method.optimizers()
        if authors:
            as_the_authors(method)
            optimizers = {
                k: Adam(getattr(method, k).parameters(), 5e-5, (0.5, 0.999), foreach=False)
                for k in "DG"
            }
        return lambda: cycle(method, optimizers, batch, *args)

    sides = {
        "authors, fp32": side(authors_cycle, True),
        "ours, fp32": side(our_cycle, False, "fp32"),
    }
    if bf16:
        sides["ours, bf16"] = side(our_cycle, False, "bf16")
    seconds = fastest(sides, turns)
    for name, value in seconds.items():
        ratio = seconds["authors, fp32"] / value
        print(f"cycle, width {width}, batch {batch_size}: {name}: {value:8.3f} s, x {ratio:.2f}")


def scoring(width: int, n: int, turns: int) -> None:
    method = SAGAN(width=width).to(DEVICE)
    pixels = torch.randint(0, 256, (n, 1, 64, 64), dtype=torch.uint8).numpy()
    sides = {
        "one at a time": lambda: detect_all(method, pixels, 1),
        "in batches": lambda: detect_all(method, pixels),
    }
    seconds = fastest(sides, turns)
    for name, value in seconds.items():
        ratio = seconds["one at a time"] / value
        print(f"scoring, width {width}: {name}: {1000 * value / n:7.2f} ms an image, x {ratio:.2f}")


def searching(width: int, n: int, steps: int, turns: int) -> None:
    method = anogan.AnoGAN(width=width, search_steps=steps).to(DEVICE)
    pixels = torch.randint(0, 256, (n, 1, 64, 64), dtype=torch.uint8).numpy()
    folded = anogan.folded

    def side(fold, images: int):
        def search() -> None:
            anogan.folded = fold
            detect_all(method, pixels[:images], images)

        return search

    sides = {
        "one at a time": (side(folded, 1), 1),
        "in a batch, not folded": (side(copy.deepcopy, n), n),
        "in a batch": (side(folded, n), n),
    }
    seconds = fastest({name: search for name, (search, _) in sides.items()}, turns)
    per_image = {name: seconds[name] / images for name, (_, images) in sides.items()}
    for name, value in per_image.items():
        ratio = per_image["one at a time"] / value
        print(f"AnoGAN, width {width}, {steps} steps: {name}: {1 / value:.2f} a s, x {ratio:.2f}")


def loading(data: str, turns: int) -> None:
    datasets.load(data)
    seconds = fastest({"cached": lambda: datasets.load(data)}, turns)["cached"]
    print(f"loading {data} from the cache, checks included: {seconds:.3f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="phantom", help="the set to load")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="time it where it is not native too")
    given = parser.parse_args()
    native = DEVICE == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16")
    print(f"{DEVICE}, {torch.get_num_threads()} threads, bf16 {'' if native else 'not '}native")
    for width in given.widths:
        training(width, 16, given.turns, native or given.bf16)
    scoring(16, 128, given.turns)
    searching(16, 64, 100, given.turns)
    loading(given.data, given.turns)
