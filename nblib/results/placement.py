"""Where place decides: runs on the drawn set `places`, what was predicted of them, what came out.

The set's true answer is known: a method that cannot tell places is at AUC 0.5, one that can may
reach 1. `PREDICTIONS` were written before the runs, from a trial with one or two seeds, and are kept.
"""

from typing import NamedTuple

from nblib.data import datasets
from nblib.training import runs
from nblib.training.runs import Run

SET = BUDGET = "places"

SEEDS = (0, 1, 2, 3, 4)


class Prediction(NamedTuple):
    """Between which AUCs the mean over the seeds of a method is to lie, and why.

    padding: of the generator's convolutions; see `layers.pad`.
    """

    method: str
    padding: str
    low: float
    high: float
    why: str


DEAD, ACTS = (0.499, 0.501), (0.95, 1.0)
CHANCE = (0.45, 0.55)

_CUT_DEAD = "cut, and the code is constant over a patch: the norm takes it away"
_CUT_ACTS = "cut, and the code acts"
_SINES = "cut, but sinusoids are not constant over a patch: only their mean over it is taken away"
_ENDS = "not cut: {} tells where the image ends"
_NO_ENDS = "not cut, and a circular image has no end"
_RELATIVE = "a circular image has no end, and relative encodings know distances, not places"

PREDICTIONS = (
    Prediction("sagan", "zeros", *DEAD, _CUT_DEAD),
    Prediction("sagan_no_place", "zeros", *DEAD, "cut, and there is no code"),
    Prediction("sagan_learned", "zeros", *DEAD, _CUT_DEAD),
    Prediction("sagan_place_acts", "zeros", *ACTS, _CUT_ACTS),
    Prediction("sagan_learned_acts", "zeros", *ACTS, _CUT_ACTS),
    Prediction("sagan_sinusoidal", "zeros", *ACTS, _SINES),
    Prediction("sagan_sinusoidal_acts", "zeros", *ACTS, _CUT_ACTS),
    Prediction("sagan_whole", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_attention", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_rope", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_alibi", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_attention_bias", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_swin", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_whole", "reflect", *ACTS, _ENDS.format("a mirror")),
    Prediction("sagan_attention", "reflect", *ACTS, _ENDS.format("a mirror")),
    Prediction("sagan_whole", "circular", *CHANCE, _NO_ENDS),
    Prediction("sagan_attention", "circular", *CHANCE, _NO_ENDS),
    Prediction("sagan_rope", "circular", *CHANCE, _RELATIVE),
    Prediction("sagan_alibi", "circular", *CHANCE, _RELATIVE),
    Prediction("sagan_attention_bias", "circular", *CHANCE, _RELATIVE),
    Prediction("sagan_swin", "circular", *ACTS, "Swin's shifted windows mark the border"),
)


def variant(padding: str) -> str:
    """What a run with this padding is called."""
    return "base" if padding == "zeros" else padding


def run_place(method: str, padding: str, seed: int) -> Run:
    """Train a method on the set `places` with this padding, or take the finished run."""
    given = {} if padding == "zeros" else {"padding": padding}
    return runs.run(method, datasets.load(SET), BUDGET, seed, variant=variant(padding), **given)
