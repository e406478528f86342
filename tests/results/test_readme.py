import pandas as pd
import pytest

from nblib.results import readme, store, verdicts


def test_the_numbers_in_the_readme_are_those_that_were_written():
    text = readme.PAGE.read_text()
    assert readme.filled(text) == text
    assert text.count("<!-- table ") == 3 and text.count("<!-- verdict ") == 3


def test_blocks_are_filled_from_the_files_and_the_rest_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PROJECT", tmp_path)
    folder = tmp_path / "figures" / "a" / "quick"
    folder.mkdir(parents=True)
    row = {
        "question": "Do the gates help?", "method": "sagan", "against": "sagan_no_gates",
        "difference": 0.05, "low": 0.01, "high": 0.09, "p_holm": 0.02, "one_run": 0.04,
        "one_run_p": 0.1, "answer": verdicts.DIFFERS, "needed": "", "never_equivalent": True,
        "patients": 77,
    }  # fmt: skip
    pd.DataFrame([row]).to_csv(folder / "verdict.csv", index=False)
    text = "before\n<!-- verdict a quick -->\nold\n<!-- end -->\nafter"
    new = readme.filled(text)
    assert new.startswith("before\n<!-- verdict a quick -->\n") and new.endswith("after")
    assert "old" not in new and "- `sagan` is better than `sagan_no_gates`: +0.050 AUC" in new
    assert "77 patients are too few" in new
    assert readme.filled(new) == new
    with pytest.raises(FileNotFoundError):
        readme.filled("<!-- table b quick --><!-- end -->")
