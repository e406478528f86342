import json

import pandas as pd

from nblib.data import datasets
from nblib.results import store, tables, write
from nblib.training import runs


def test_the_table_is_written_three_times_with_a_record_of_its_runs(results, project_root):
    write.write_results(results)
    folder = project_root / "figures" / results[0].config["set"] / "smoke"
    record = json.loads((folder / "results.json").read_text())
    assert len(record["runs"]) == 4 and all("seed" in run for run in record["runs"])
    latex = (folder / "results.tex").read_text()
    assert r"\toprule" in latex and not any(
        "_" in line.replace(r"\_", "") or "%" in line.replace(r"\%", "")
        for line in latex.splitlines()
        if "&" in line or "caption" in line
    )
    words = (folder / "results.md").read_text()
    assert "known_against_unlabeled *" in words and "seeds 0, 1" in words


def test_latex_escapes_the_names_of_columns_too_and_fits_the_page(make_set, project_root):
    dataset = datasets.load(make_set("more", {"train/0": 60, "test/0": 20, "test/1": 20}))
    write.write_results([store.of(runs.run("mean_image", dataset, "smoke"))])
    latex = (project_root / "figures" / "more" / "smoke" / "results.tex").read_text()
    assert r"sensitivity at 90 \%" in latex and "%" not in latex.replace(r"\%", "")
    assert latex.count(r"\resizebox{\textwidth}{!}{\begin{tabular}") == 1
    assert latex.count("{") == latex.count("}")


def test_a_caption_is_text_to_latex_whatever_a_set_is_called(results, project_root):
    name = r"a^b_{c}~\d #1 $2 3% &"
    write.write_results([r._replace(config=r.config | {"set": name}) for r in results])
    (file,) = project_root.glob("figures/*/smoke/results.tex")
    written = (
        r"Set a\textasciicircum{}b\_\{c\}\textasciitilde{}\textbackslash{}d \#1 \$2 3\% \&, budget"
    )
    assert written in file.read_text()


def test_what_is_empty_says_why():
    table = pd.DataFrame({"a": [1]})
    assert write.or_words(table, "why") is table
    assert write.or_words(table.iloc[:0], "why").index.tolist() == ["why"]


def test_the_drawn_set_says_that_it_ranks_nothing(results):
    drawn = [r._replace(config=r.config | {"set": "phantom"}) for r in results]
    assert "ranks nothing" in write.caption(drawn, tables.table(drawn))


def test_localisation_stands_below_chance_and_says_how_little_it_is_of(make_set, project_root):
    boxes = [(f"test_1_{i}.png", 2, 2, 4, 4) for i in range(3)]
    dataset = datasets.load(make_set("boxed", size=16, boxes=boxes))
    names = ("mean_intensity", "mean_image", "known_against_unlabeled")  # one gives maps
    found = [store.of(runs.run(name, dataset, "smoke")) for name in names]
    rows = tables.localisation_table(found)
    assert list(rows["method"]) == ["chance", "mean_image"]
    metrics = found[1].metrics
    assert rows["pixel_ap"][0] == metrics["pixel_ap_chance"] and rows["pro"][0] == 0.15
    assert [rows["pro_low"][1], rows["pro_high"][1]] == metrics["pro_interval"]
    printed = write.write_localisation(found)
    assert "[" in printed["PRO"][1] and "[" not in printed["PRO"][0]
    words = (project_root / "figures" / "boxed" / "smoke" / "localisation.md").read_text()
    assert "3 images with marked lesions" in words
    plain = [store.of(runs.run("mean_image", datasets.load(make_set("plain")), "smoke"))]
    assert write.write_localisation(plain).empty
