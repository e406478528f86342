import pytest

from nblib import plan
from nblib.files import DatasetError
from nblib.methods.catalogue import METHODS
from nblib.plan import Page


def test_quick_is_short_unless_every_method_is_asked_for():
    short = plan.methods("quick")
    assert {METHODS[name].notebook for name in short} == set(plan.RUNS) - {"36_controls"}
    trained = [name for name in short if name in plan.NETWORKS]
    assert len({METHODS[name].notebook for name in trained}) == len(trained)
    for budget, every in (("quick", True), ("smoke", False), ("laptop", False)):
        assert plan.methods(budget, every) == list(METHODS)


def test_a_page_is_called_by_notebook_method_and_seed_where_there_are_several(project_root):
    names = {
        Page("a", "quick", "50_results"): "50_results",
        plan.page_of("sagan", "a", "quick", "3"): "22_sagan-seed3",
        plan.page_of("pca16", "a", "quick", "0"): "02_trivial_baselines-seed0",
        plan.page_of("sagan_learned", "a", "quick", "0"): "32_learned-sagan_learned-seed0",
    }
    for page, name in names.items():
        assert page.name == name
        assert page.html == project_root.resolve() / f"figures/html/a/quick/{name}.html"
    made = plan.page_of("pca16", "a", "quick", "0").made
    assert list(made) == plan.RUNS["02_trivial_baselines"]
    assert made["pca64"].match("data/runs/a/quick/pca64/base/seed0/metrics.json")


def test_every_run_is_made_by_one_page_a_set_and_seed():
    pages = plan.pages(["b", "a"], "laptop", ["0", "1"])
    assert len(pages) == len(set(pages))
    made = [(page.data, page.seed, method) for page in pages for method in page.methods]
    assert sorted(made) == sorted((d, s, m) for d in "ab" for s in "01" for m in METHODS)
    assert {page.notebook for page in pages} == {
        f.stem for f in plan.NOTEBOOKS.glob("[0-9]*.ipynb")
    }


def test_sets_are_found_by_name_or_path_and_told_apart(make_set, tmp_path, project_root):
    folder = make_set("one")
    assert plan.chosen_sets(["phantom", str(folder)], tmp_path) == {
        "phantom": "phantom",
        "one": folder.resolve(),
    }
    other = make_set("elsewhere/one")
    assert plan.chosen_sets(["elsewhere/one"], tmp_path) == {"one": other.resolve()}
    with pytest.raises(DatasetError, match="share a name"):
        plan.chosen_sets([str(folder), str(other)], tmp_path)
    with pytest.raises(DatasetError, match="There is no set 'kept'"):
        plan.chosen_sets(["kept"], tmp_path)
    with pytest.raises(DatasetError, match=r"There is no set '.*~nosuch/one'"):
        plan.chosen_sets(["~nosuch/one"], tmp_path)
    (project_root / "data" / "scores" / "kept").mkdir(parents=True)
    assert plan.chosen_sets(["kept"], tmp_path, as_it_is=True) == {"kept": ""}


@pytest.mark.parametrize("name", ["{a} b", "a}b", "a{b", "{a}/one"])
def test_braces_in_the_name_of_a_folder_are_refused(make_set, tmp_path, project_root, name):
    """Snakemake asks for a value of what is between them."""
    folder = make_set(name).resolve()
    (project_root / "data" / "scores" / "{a}").mkdir(parents=True)
    for words, as_it_is, named in (([str(folder)], False, folder), (["{a}"], True, "{a}")):
        with pytest.raises(DatasetError, match="no braces") as error:
            plan.chosen_sets(words, tmp_path, as_it_is)
        assert str(error.value).endswith(f"rename {named}.")


def test_braces_in_the_name_of_the_root_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path / "{x}"))
    with pytest.raises(DatasetError, match=r"no braces.*\{x\}\.$"):
        plan.chosen_sets(["phantom"], tmp_path)


@pytest.mark.parametrize("seeds", ["", "a", "0,x", "-1", "1.5"])
def test_seeds_are_whole_numbers(seeds):
    assert plan.chosen_seeds("0,1,") == plan.chosen_seeds("00,1,01") == ["0", "1"]
    with pytest.raises(ValueError, match="whole numbers"):
        plan.chosen_seeds(seeds)
