import re

import pandas as pd
import pytest

from nblib.results import readme, store


def test_the_numbers_in_the_readme_are_those_that_were_written():
    text = readme.PAGE.read_text()
    assert readme.filled(text) == text
    assert re.findall("<!-- (\\w+)", text) == [
        *("drawn", "end", "results", "end", "answer", "end", "ratios", "end", "methods", "end")
    ]


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = readme.PAGE.read_text()
    assert len(text.splitlines()) <= 250
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) > 8
    assert [link for link in links if not (store.PROJECT / link).exists()] == []


def test_blocks_are_filled_from_the_files_and_the_rest_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PROJECT", tmp_path)
    folder = tmp_path / "figures" / "a" / "quick"
    folder.mkdir(parents=True)
    rows = pd.DataFrame({"method": [*reversed(readme.ROWS), "another"]})
    rows["auc"] = [0.9 - 0.1 * i for i in range(len(rows))]
    rows = rows.assign(auc_low=rows["auc"] - 0.05, auc_high=rows["auc"] + 0.0501)
    rows.to_csv(folder / "results.csv", index=False)
    text = "before\n<!-- results a quick -->\nold\n<!-- end -->\nafter"
    new = readme.filled(text)
    assert new.startswith("before\n<!-- results a quick -->\n| method") and new.endswith("after")
    lines = [line.split("|")[1:3] for line in new.splitlines() if line.startswith("| ")][1:]
    assert [method.strip() for method, _ in lines] == list(readme.ROWS)
    assert lines[-1][1].strip() == "0.900 [0.850, 0.950]"
    assert readme.filled(new) == new
    with pytest.raises(FileNotFoundError):
        readme.filled("<!-- results b quick --><!-- end -->")
    rows = [("one", 0, 0.5, 3), ("one", 40, 0.7, 3), ("one", 100, 0.9, 3), ("two", 0, 0.52, 2)]
    rows = pd.DataFrame(
        [*rows, ("two", 100, 0.81, 2)], columns=["method", "percent", "auc", "seeds"]
    )
    rows.to_csv(folder / "ratios.csv", index=False)
    new = " ".join(readme.filled("<!-- ratios a quick --><!-- end -->").split())
    assert "`one` 0.50, 0.90; `two` 0.52, 0.81." in new and "seeds: 2" in new and "0.70" not in new
