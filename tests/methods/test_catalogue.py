import colorsys
import itertools

import numpy as np
import pytest

from nblib.methods.catalogue import FAMILIES, METHODS, by_notebook, entry, known, order
from nblib.training.budgets import BUDGETS, arguments


def test_all_colours_differ_and_greys_are_those_of_trivial_scores_and_the_black_reference():
    colours = {name: found.colour for name, found in METHODS.items()}
    assert len(set(colours.values())) == len(colours)
    grey = {n: c for n, c in colours.items() if len({c[1:3], c[3:5], c[5:7]}) == 1}
    trivial = {name for name, found in METHODS.items() if found.family == "trivial"}
    assert set(grey) == trivial | {"known_against_unlabeled"}
    light = sorted(colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[1]
                   for c in grey.values())  # fmt: skip
    assert min(np.diff(light)) > 0.05


def test_every_method_has_a_family_and_families_differ_by_marker_and_colour():
    families = {name: found.family for name, found in METHODS.items()}
    assert set(families.values()) == set(FAMILIES)
    assert families["sagan"] == families["brainomaly"] == "GAN, the mix as well"
    assert families["sagan_attention_bias"] == "SAGAN, attention"
    assert families["sagan_no_place"] == families["sagan_whole"] == "SAGAN, controls"
    assert families["pretrained_knn_64"] == "pretrained"
    markers, colours, _ = zip(*FAMILIES.values(), strict=True)
    assert len(set(markers)) == len(set(colours)) == len(FAMILIES)


def test_a_family_trains_by_a_column_that_every_budget_has():
    for family in FAMILIES.values():
        assert family.trains is None or all(family.trains in row for row in BUDGETS.values())
    for name, found in METHODS.items():
        trains = "steps" in arguments(name, "thesis")
        assert trains == (FAMILIES[found.family].trains is not None)


def test_what_a_method_is_held_against_are_methods_and_none_waits_for_itself():
    depth = dict.fromkeys(METHODS, 0)
    for _ in depth:
        for name, found in METHODS.items():
            assert set(found.against) <= set(METHODS)
            depth[name] = 1 + max((depth[other] for other in found.against), default=0)
    assert max(depth.values()) < len(depth), "a circle would never end"
    variants = {name for name in METHODS if name.startswith("sagan_")}
    made_of_others = {name for name, found in METHODS.items() if found.against}
    assert made_of_others == variants | {"brainomaly_features", "brainomaly_features_14"}


def test_the_methods_of_a_notebook_are_in_the_order_of_the_catalogue():
    notebooks = by_notebook()
    assert list(notebooks) == sorted(notebooks)
    assert sorted(itertools.chain(*notebooks.values()), key=order) == list(METHODS)
    assert notebooks["31_sinusoidal"] == ["sagan_sinusoidal", "sagan_sinusoidal_acts"]


def test_an_unknown_method_is_named_and_never_shown_as_another(capsys):
    with pytest.raises(
        ValueError, match=r"There is no method 'gone'\. There are: mean_intensity, "
    ):
        entry("gone")
    assert known(["sagan", "gone", "sagan", "pca16", "gone"]) == ["sagan", "pca16"]
    said = capsys.readouterr().err
    assert said == "Left out, since the catalogue of methods no longer has it: gone.\n"
    assert known(["sagan"]) == ["sagan"] and not capsys.readouterr().err
