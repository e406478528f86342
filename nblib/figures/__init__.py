"""Everything that is drawn. Functions take arrays, data frames or finished runs, and return a Figure."""

from nblib.figures.diagrams import (
    CODE as CODE,
    GATE as GATE,
    LAYER as LAYER,
    gate_diagram as gate_diagram,
    generator_diagram as generator_diagram,
)
from nblib.figures.of_a_run import (
    curves as curves,
    distributions as distributions,
    fields as fields,
    gallery as gallery,
    gate_maps as gate_maps,
    heat_maps as heat_maps,
    histogram as histogram,
    map_limit as map_limit,
    one_image as one_image,
    parts as parts,
    scatter as scatter,
    training_curves as training_curves,
)
from nblib.figures.of_results import (
    ANSWERS as ANSWERS,
    ONE_SEED as ONE_SEED,
    cost as cost,
    differences as differences,
    forest as forest,
    matrix as matrix,
    model_choice as model_choice,
    one_through_models as one_through_models,
    over_ratios as over_ratios,
    through_models as through_models,
)
from nblib.figures.style import (
    ABNORMAL as ABNORMAL,
    HELD_OUT as HELD_OUT,
    LINES as LINES,
    MARKERS as MARKERS,
    NORMAL as NORMAL,
    STYLE as STYLE,
    WIDTH as WIDTH,
    save as save,
    shown as shown,
)
