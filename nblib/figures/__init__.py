"""Everything that is drawn: arrays, data frames or finished runs -> a Figure."""

from nblib.figures.diagrams import diagram
from nblib.figures.of_a_run import (
    curves,
    distributions,
    fields,
    gallery,
    gate_maps,
    heat_maps,
    histogram,
    map_limit,
    parts,
    scatter,
    training_curves,
    whitening,
)
from nblib.figures.of_results import (
    ANSWERS,
    cost,
    differences,
    forest,
    guide,
    matrix,
    model_choice,
    one_through_models,
    over_ratios,
    over_steps,
    predicted,
    through_models,
    twins,
)
from nblib.figures.style import (
    ABNORMAL,
    HELD_OUT,
    NORMAL,
    STYLE,
    save,
    shown,
)
