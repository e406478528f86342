import dataclasses
import gzip
import json
import shutil

import pandas as pd
import pytest

from files import all_bytes, full_disk
from nblib.data import datasets
from nblib.files import RunError
from nblib.results import features, store, tables
from nblib.training import runs


def test_a_run_whose_method_has_left_the_catalogue_is_named_and_left_out(results, capsys):
    for result in results:
        own = result.config
        if own["method"] == "mean_image":
            file = result.run.folder / "config.json"
            file.write_text(file.read_text().replace("mean_image", "former"))
            (file.parent / "SHA256SUMS").unlink()
            former = runs.run_folder(own["set"], "smoke", "former", own["seed"])
            former.parent.mkdir(parents=True, exist_ok=True)
            file.parent.rename(former)
    left = store.collect(results[0].config["set"], "smoke")
    assert {result.config["method"] for result in left} == {"known_against_unlabeled"}
    said = "Left out, since the catalogue of methods no longer has it: former.\n"
    assert capsys.readouterr().err == said


def test_kept_scores_make_the_same_table_without_the_runs(results, monkeypatch, tmp_path):
    before = tables.table(results)
    config = results[0].config
    store.keep(config["set"], "smoke")
    monkeypatch.setattr(store, "_runs_folder", lambda *_: tmp_path / "no runs here")
    after = tables.table(store.collect(config["set"], "smoke"))
    pd.testing.assert_frame_equal(before, after, rtol=1e-6)


def test_keeping_twice_gives_the_same_bytes(results):
    config = results[0].config
    first = [file.read_bytes() for file in store.keep(config["set"], "smoke")]
    assert first == [file.read_bytes() for file in store.keep(config["set"], "smoke")]


def test_a_set_is_collected_by_the_path_of_its_folder_too(results, tmp_path):
    data = results[0].config["set"]
    again = store.collect(tmp_path / "anywhere" / data, "smoke")
    assert [r.config for r in again] == [r.config for r in results]


def test_what_is_missing_is_named_with_the_command_that_makes_it(project_root):
    with pytest.raises(FileNotFoundError, match="make figures DATA=nowhere BUDGET=quick"):
        store.collect("nowhere", "quick")


def test_checkpoints_are_kept_with_the_scores(make_set, monkeypatch, tmp_path):
    counts = {"train/0": 40, "train/unlabeled/0": 12, "train/unlabeled/1": 12}
    run = runs.run("ganomaly", datasets.load(make_set("a mix", counts)), "smoke")
    store.keep("a mix", "smoke")
    monkeypatch.setattr(store, "_runs_folder", lambda *_: tmp_path / "no runs here")
    (kept,) = store.collect("a mix", "smoke")
    pd.testing.assert_frame_equal(kept.checkpoints, store.checkpoints(run), check_dtype=False)
    assert kept.run is None and kept.checkpoints["auc"].iloc[-1] == pytest.approx(
        run.metrics["auc"], abs=1e-6
    )


def test_a_record_names_each_run_by_a_hash_of_all_that_made_it(results):
    record = store.record(results)
    hashes = [run["hash"] for run in record["runs"]]
    assert len(set(hashes)) == 4
    other = results[0]._replace(config=results[0].config | {"threads": 99})
    assert store.record([other])["runs"][0]["hash"] not in hashes
    needed = {"seed", "code", "versions", "device", "arguments", "precision"}
    assert all(needed <= set(run) for run in record["runs"])


def test_runs_on_the_disk_are_given_in_the_order_asked_for_or_named_as_missing(results):
    found = store.runs_of(results, "known_against_unlabeled", "alad", "mean_image", seed=1)
    assert [run.config["method"] for run in found] == ["known_against_unlabeled", "mean_image"]
    assert {run.config["seed"] for run in found} == {1}
    gone = [result._replace(run=None) for result in results]
    with pytest.raises(FileNotFoundError, match=r"No run of mean_image .* make figures"):
        store.runs_of(gone, "mean_image")


@pytest.fixture
def kept(results, project_root):
    """The kept scores of a run whose folder is gone: seed0.json, seed0.csv.gz."""
    store.keep(results[0].config["set"], "smoke")
    shutil.rmtree(project_root / "data" / "runs")
    return project_root / "data/scores" / results[0].config["set"] / "smoke/mean_image/seed0.json"


def again(change):
    """A change of the scores as text, in a file that is whole."""

    def damage(file):
        scores = file.with_suffix(".csv.gz")
        scores.write_bytes(gzip.compress(change(gzip.decompress(scores.read_bytes()))))

    return damage


def said(**values):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | values))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


KEPT_DAMAGES = {
    "no numbers": lambda file: file.write_text(""),
    "half the numbers": cut,
    "numbers of another run": lambda file: shutil.copy(file.with_name("seed1.json"), file),
    "a number changed": lambda file: file.write_text(file.read_text().replace("0.", "1.", 1)),
    "no metrics": said(metrics=None),
    "no digest of these": said(digest="0" * 16),
    "a list": lambda file: file.write_text("[]"),
    "no scores": lambda file: file.with_suffix(".csv.gz").unlink(),
    "half the scores": lambda file: cut(file.with_suffix(".csv.gz")),
    "scores of another run": lambda file: shutil.copy(
        file.parents[1] / "known_against_unlabeled/seed0.csv.gz", file.with_suffix(".csv.gz")
    ),
    "a score changed": again(lambda text: text.replace(b"0.", b"1.", 1)),
    "a row less": again(lambda text: text[: text[:-1].rindex(b"\n") + 1]),
}


@pytest.mark.parametrize("damage", KEPT_DAMAGES.values(), ids=KEPT_DAMAGES)
def test_damaged_kept_scores_are_refused_in_a_sentence(kept, damage):
    data = kept.parts[-4]
    assert len(store.collect(data, "smoke")) == 4
    damage(kept)
    with pytest.raises(RunError, match="Take it from the repository again") as error:
        store.collect(data, "smoke")
    assert str(kept.parent) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_scores_that_were_kept_without_a_digest_are_refused(kept):
    record = json.loads(kept.read_text())
    del record["digest"]
    kept.write_text(json.dumps(record))
    with pytest.raises(RunError, match="not as it was written"):
        store.collect(kept.parts[-4], "smoke")


HEADERS = {
    "moved-seed0": b"image,patient,label,method,as it is\n",
    "mirrored-seed0": b"image,patient,label,method,score,mirrored\n",
    "perceptual-seed0": b"image,patient,label,method,score,residual,perceptual,whitened\n",
    "features": b"direction,what,division,auc\n",
}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    "name, content, why",
    [(name, b"other,columns\n1,2\n", "no column [a-z]+, .*") for name in HEADERS]
    + [(name, header, "no row") for name, header in HEADERS.items()]
    + [("moved-seed0", b"", ".*")]
    + [
        (name, header + b"x" + header.count(b",") * b",x" + b"\n", "Unable .*")
        for name, header in HEADERS.items()
    ],
)
def test_a_file_of_a_pass_that_is_none_is_refused_in_a_sentence(
    project_root, name, content, why, suffix
):
    where = {".csv": "runs", ".csv.gz": "scores"}[suffix]
    file = project_root / f"data/{where}/own/smoke/{name}{suffix}"
    file.parent.mkdir(parents=True)
    file.write_bytes(content if suffix == ".csv" else gzip.compress(content))
    with pytest.raises(RunError, match=rf"{name}\.csv.* cannot be read: .*{why}\. Move it away"):
        read_beside_runs(name)


@pytest.mark.parametrize("name", ["moved-seed0", "features"])
def test_a_damaged_file_of_a_pass_is_refused_in_a_sentence(project_root, name):
    file = project_root / f"data/scores/own/smoke/{name}.csv.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(HEADERS[name] * 99)[:-9])
    with pytest.raises(RunError, match=rf"{name}\.csv\.gz cannot be read: .*Move it away"):
        read_beside_runs(name)


def read_beside_runs(name):
    if name == "features":
        return features.studied("own", "smoke")
    config = {"set": "own", "budget": "smoke", "method": "sagan", "seed": 0}
    return store.of_pass(name.removesuffix("-seed0"), [store.Result(config, {}, pd.DataFrame())])


@pytest.mark.parametrize("name", ["two words", 'it\'s "quoted"', "Größe 目"])
def test_runs_are_made_kept_and_collected_under_a_root_of_any_name(
    make_set, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path / name))
    run = runs.run("mean_image", datasets.load(make_set()), "smoke")
    assert run.folder.is_relative_to(tmp_path / name)
    (file,) = store.keep("a set", "smoke")
    assert file.is_relative_to(tmp_path / name)
    for _ in ("the run", "what is kept of it"):
        (result,) = store.collect("a set", "smoke")
        assert result.metrics["auc"] == run.metrics["auc"]
        assert len(result.scores) == len(run.scores)
        shutil.rmtree(run.folder, ignore_errors=True)


def test_runs_that_were_put_aside_are_not_collected(results):
    for result in results:
        folder = result.run.folder
        folder.rename(folder.with_name(f"{folder.name}.old"))
    with pytest.raises(FileNotFoundError, match="no finished run"):
        store.collect(results[0].config["set"], "smoke")


def test_what_is_kept_of_a_pass_of_methods_that_took_no_part_in_it_again_stays(results):
    data, names = results[0].config["set"], [r.config["method"] for r in results[::2]]
    tables = {
        r.config["method"]: r.test[["image", "patient", "label", "score"]].assign(
            method=r.config["method"], mirrored=value
        )
        for value, r in zip((1.0, 2.0), results[::2], strict=True)
    }
    file = store.pass_file("mirrored", data, "smoke", 0)
    store.write_pass(file, [*tables.values()])
    store.keep(data, "smoke")
    again = tables[names[1]].assign(mirrored=3.0)
    store.write_pass(file, [again])
    kept = store.read_found(store.keep(data, "smoke")[-1])
    assert kept.groupby("method")["mirrored"].unique().map(list).to_dict() == {
        names[0]: [1.0], names[1]: [3.0],
    }  # fmt: skip
    assert list(kept["method"].unique()) == names


def test_runs_of_other_images_that_a_set_once_had_are_left_out(make_set, capsys):
    dataset = datasets.load(make_set())
    runs.run("mean_image", dataset, "smoke")
    names = ["mean_image", "pca16"]
    assert [run.config["method"] for run in store.finished(dataset, "smoke", names, 0)] == names[:1]
    changed = dataclasses.replace(dataset, fingerprint="other")
    assert list(store.finished(changed, "smoke", names, 0)) == []
    assert "since the set has changed since" in capsys.readouterr().err


def test_scores_that_were_kept_before_stay_where_the_disk_is_full(results, project_root):
    data = results[0].config["set"]
    file = store.keep(data, "smoke")[0]
    before = all_bytes(project_root / "data" / "scores")
    with pytest.raises(OSError, match=f"{file} cannot be written: File too large"), full_disk(100):
        store.keep(data, "smoke")
    assert all_bytes(project_root / "data" / "scores") == before
