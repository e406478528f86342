"""The answer, made of verdicts whose numbers are known."""

import numpy as np
import pandas as pd
import pytest

from nblib.methods.catalogue import BAR, METHODS
from nblib.results import answer, placement, pooled, questions, store
from nblib.results.verdicts import CANNOT_TELL, DIFFERS, EQUIVALENT


def verdict_rows(*pairs):
    """`verdicts.answers`, as far as the answer reads it."""
    table = pd.DataFrame(
        list(pairs), columns=["family", "method", "against", "answer", "difference"]
    )
    table = table.assign(question="?", error=0.01, patient_error=0.008, seed_error=0.006)
    table["low"], table["high"] = table["difference"] - 0.02, table["difference"] + 0.02
    return table.assign(never_equivalent=table["answer"] == CANNOT_TELL)


def of_patients(alibi=0.01, whole=0.03):
    return verdict_rows(
        (questions.THESIS, "sagan_alibi", "sagan_attention", CANNOT_TELL, alibi),
        (questions.THESIS, "sagan_swin", "sagan_whole", EQUIVALENT, 0.001),
        ("inside SAGAN", "sagan_whole", "sagan", CANNOT_TELL, whole),
        ("inside SAGAN", "sagan_attention", "sagan_whole", CANNOT_TELL, -0.004),
        (questions.GAN_ON_FEATURES, "brainomaly_features", "patch_fisher", EQUIVALENT, 0.002),
        (questions.GAN_ON_FEATURES, "brainomaly_features", BAR, CANNOT_TELL, -0.01),
        (questions.GAN_ADDS, "pretrained_mean+sagan", BAR, CANNOT_TELL, alibi),
        (questions.GAN_ADDS, "pretrained_mean+sagan", "pretrained_mean+x", CANNOT_TELL, 0.5),
    )


PLACES = verdict_rows(
    ("where place decides", "sagan", "sagan_no_place", EQUIVALENT, 0.0),
    ("where place decides", "sagan_place_acts", "sagan", DIFFERS, 0.45),
    ("where place decides", "sagan_alibi", "sagan_attention", EQUIVALENT, 0.0),
)
MOVED = pd.DataFrame(
    {
        "method": ["sagan", "sagan_whole", "sagan_swin", "brainomaly"],
        f"shift {answer.PIXELS}": [-0.2, -0.06, -0.03, -0.5],
    }
)


def test_each_paragraph_says_what_its_verdicts_say():
    tables = {"one": of_patients(), "other": of_patients(alibi=-0.015)}
    lines = answer.answer(tables, PLACES, {"one": MOVED})
    acts, place, patients, cutting, attention, features, nobody = lines
    assert acts.endswith("`sagan` is equivalent to `sagan_no_place`.")
    assert "`sagan_place_acts` (+0.450) is better than `sagan`." in place
    assert "Of what is not cut, `sagan_alibi` is equivalent to `sagan_attention`." in place
    assert "on `one` `sagan_swin` is equivalent to `sagan_whole`; 1 of 2 cannot be told" in patients
    whole = questions.pairs_of("nih")[questions.THESIS]
    assert f"(at most 0.030 better or 0.010 worse), {whole - 2} have not run; on" in patients
    assert "on `other`" in patients and "(at most 0.005 better or 0.035 worse)" in patients
    average = pooled.over_sets(tables).query("method == 'sagan_whole'").iloc[0]
    assert "one +0.030 [+0.010, +0.050] (cannot tell); other +0.030" in cutting
    assert f"on average +0.030 [{average['low']:+.3f}, {average['high']:+.3f}]" in cutting
    assert "of `sagan`, and of what is not cut, by -0.20 and -0.06 to -0.03 on `one`." in cutting
    assert "`sagan_attention` against `sagan_whole`: one -0.004" in attention
    assert "`brainomaly_features` against `patch_fisher`: one +0.002" in features
    assert (
        "Of 6 GANs and sums the best against `pretrained_mean` (picked as "
        "the best, which no interval is corrected for): on one `pretrained_mean+sagan` "
        "+0.010 [-0.010, +0.030] (cannot tell); on other `brainomaly_features` -0.010" in features
    )
    assert [line.count("\n") for line in lines] == [0, 1, 0, 1, 0, 1, 1]
    assert "2 of these 4 differences; their average" in nobody
    assert "An error of 0.008 comes from patients, of 0.006" in nobody
    assert "for 2 at least no number of seeds could show equivalence" in nobody
    needed = pooled.over_sets(tables).query("family == @questions.THESIS")["needed"]
    assert len(needed) == 2 and np.isfinite(needed).any() and "such sets" in nobody


def test_without_the_drawn_set_or_a_second_one_it_says_the_rest():
    lines = answer.answer({"one": of_patients()}, pd.DataFrame(), {"one": pd.DataFrame()})
    assert [line.split(".")[0] for line in lines] == [
        "**What helps on images of patients",
        "**What cutting costs",
        "**What attention alone does",
        "**What a GAN adds to features",
        "**What nobody can tell",
    ]
    assert "average" not in " ".join(lines) and "Shifting" not in " ".join(lines)


def test_a_pair_that_has_not_run_is_said_to_be_missing():
    table = of_patients().query("method != 'sagan_whole'")
    lines = answer.answer({"one": table}, pd.DataFrame(), {})
    assert "`sagan_whole` against `sagan`: has not run" in lines[1]


def test_where_no_pair_has_several_seeds_it_says_so_and_of_what_was_not_moved_nothing():
    table = of_patients().assign(low=np.nan)
    only_cut = MOVED[MOVED["method"].isin(["sagan", "brainomaly"])]
    *_, cutting, _, _, nobody = answer.answer({"one": table}, pd.DataFrame(), {"one": only_cut})
    assert nobody.endswith("cannot be said: no pair has run with several seeds.")
    assert "nan" not in nobody + cutting and "Shifting" not in cutting


def test_it_is_written_with_the_runs_that_it_stands_on(monkeypatch, project_root):
    assert answer.write_answer("smoke") == []
    monkeypatch.setattr(store, "PROJECT", project_root)
    assert not (project_root / "figures" / "pooled").exists()


def test_the_committed_answer_rests_on_all_sets():
    text = (store.PROJECT / "figures" / "pooled" / "laptop" / "answer.md").read_text()
    assert len(text.strip().split("\n\n")) == 7
    assert all(f"on `{name}`" in text for name in questions.POOLED) and placement.SET in text


@pytest.mark.parametrize("name", questions.POOLED)
def test_every_gan_on_pixels_is_below_the_recommended_features_as_the_readme_says(name):
    rows = pd.read_csv(store.PROJECT / "figures" / name / "laptop" / "results.csv")
    rows = rows.set_index("method")["auc"]
    families = rows.index.map(lambda method: METHODS[method].family)
    gans = rows[families.str.contains("GAN") & (families != "GAN, features")]
    assert len(gans) > 10 and gans.max() < rows["pretrained_mean"]
    assert gans.max() < rows["pretrained_logistic_64"]
