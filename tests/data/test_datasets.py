import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sets import COLOUR, GREY, PARTS, equal, mix, one_problem, problems_of, split_of, write_split

from files import full_disk
from nblib.data import datasets, phantom
from nblib.data.datasets import DatasetError, load
from nblib.data.labels import load_labels


def pixels_of(folder, name):
    return np.asarray(Image.open(folder / "images" / name))


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it, and from then on no image file can be opened."""

    def forbid():
        def fail(*args, **kwargs):
            raise AssertionError("an image was decoded again")

        monkeypatch.setattr(Image, "open", fail)

    return forbid


# The layout


@pytest.mark.parametrize("images", ["images", "train_png_512"])
def test_the_parts_are_the_files_that_data_json_lists(make_set, images):
    folder = make_set(images=images)
    split, dataset = split_of(folder), load(folder, 16)
    unlabeled = split["train"]["unlabeled"]
    expected = {
        "normal": split["train"]["0"],
        "unlabeled": unlabeled["0"] + unlabeled["1"],
        "test": split["test"]["0"] + split["test"]["1"],
    }
    assert (dataset.name, dataset.size, dataset.channels) == ("a set", 16, 1)
    for part, names in expected.items():
        found = getattr(dataset, part)
        assert sorted(found.names) == sorted(names) and len(found) == len(names)
        assert found.images.dtype == np.uint8 and found.images.shape == (len(names), 1, 16, 16)
        for name, image in zip(found.names, found.images, strict=True):
            assert np.array_equal(image[0], np.asarray(Image.open(folder / images / name)))


def test_files_that_data_json_does_not_list_are_left_alone(make_set):
    folder = make_set()
    before = load(folder, 16)
    (folder / "images" / "notes.txt").write_text("no image")
    (folder / "images" / "broken.png").write_bytes(b"")
    assert equal(before, load(folder, 16))


def test_an_entry_of_another_kind_in_data_json_is_left_alone(make_set):
    folder = make_set()
    write_split(folder, split_of(folder) | {"source": {"doi": "10.1/2"}})
    assert len(load(folder, 16).test) == 6


def test_sizes_are_those_of_the_files(make_set):
    folder = make_set()
    Image.new("L", (30, 20)).save(folder / "images" / "test_1_0.png")
    dataset = load(folder, 8)
    sizes = dict(zip(dataset.test.names, dataset.test.sizes.tolist(), strict=True))
    assert sizes.pop("test_1_0.png") == [30, 20]
    assert all(size == [16, 16] for size in sizes.values())


def test_without_metadata_every_image_is_a_patient(make_set):
    dataset = load(make_set(), 16)
    for part in PARTS:
        found = getattr(dataset, part)
        assert list(found.patients) == list(found.names)


def patients_in_pairs(folder):
    """A patient for each two images of a list, by numbers such as 007."""
    split, patients, number = split_of(folder), {}, 5
    unlabeled = split["train"]["unlabeled"]
    for names in (split["train"]["0"], *unlabeled.values(), *split["test"].values()):
        for i, name in enumerate(names):
            patients[name] = f"{number + i // 2:03d}"
        number += 100
    return patients


def write_patients(folder, patients, header="image,patient", row="{0},{1}"):
    lines = [header, *(row.format(*item) for item in patients.items())]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_patient_numbers_stay_text(make_set):
    folder = make_set()
    patients = patients_in_pairs(folder)
    write_patients(folder, patients)
    dataset = load(folder, 16)
    assert "007" not in patients.values() and "006" in patients.values()
    for part in PARTS:
        found = getattr(dataset, part)
        assert list(found.patients) == [patients[name] for name in found.names]


def test_patients_007_and_7_are_two(make_set):
    folder = make_set()
    patients = {name: name for name in patients_in_pairs(folder)}
    write_patients(folder, patients | {"normal_0.png": "007", "test_0_0.png": "7"})
    dataset = load(folder, 16)
    assert dataset.normal.patients[0] == "007" and dataset.test.patients[0] == "7"


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan", "1e5", "True", "2021-01-01"])
def test_a_patient_may_be_called_anything(make_set, word):
    folder = make_set()
    write_patients(folder, {n: n for n in patients_in_pairs(folder)} | {"normal_0.png": word})
    assert load(folder, 16).normal.patients[0] == word


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("patient,image", "{1},{0}"),
        ("age,image,sex,patient,note", '54,{0},,{1},"a, b; c"'),
        ("\ufeffimage,patient", "{0},{1}"),
        ('"image","patient"', '"{0}","{1}"'),
        ("image,patient", "{0},{1}\n{0},{1}"),
    ],
)
def test_metadata_may_have_other_columns_orders_and_repeated_rows(make_set, header, row):
    folder = make_set()
    patients = patients_in_pairs(folder)
    write_patients(folder, patients, header, row)
    found = load(folder, 16).normal
    assert list(found.patients) == [patients[name] for name in found.names]


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30
)


@settings(max_examples=40)
@given(folder=TEXT.filter(lambda t: t.strip(".")), stems=st.lists(TEXT, min_size=5, max_size=5))
def test_names_and_folders_may_hold_spaces_and_any_script(tmp_path_factory, folder, stems):
    names = [f"{i} {stem}.png" for i, stem in enumerate(stems)]
    folder = tmp_path_factory.mktemp("unicode") / folder
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays = {name: random.integers(0, 256, (4, 4), np.uint8) for name in names}
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / "images" / name)
    one, two, three, four, five = ([name] for name in names)
    mixed = {"0": two, "1": three}
    write_split(folder, {"train": {"0": one, "unlabeled": mixed}, "test": {"0": four, "1": five}})
    dataset = load(folder, 4)
    for part, expected in zip(PARTS, (one, two + three, four + five), strict=True):
        found = getattr(dataset, part)
        assert sorted(found.names) == sorted(expected)
        for name, image in zip(found.names, found.images, strict=True):
            assert np.array_equal(image[0], arrays[name])
    assert list(load_labels(dataset).test) == [int(n in five) for n in dataset.test.names]


def test_a_folder_whose_name_is_no_text_is_an_error(make_set):
    one_problem(make_set("own\udcff"), "own? is a folder whose name is no text")


def test_a_folder_with_a_long_name(make_set):
    assert len(load(make_set("x" * 250), 16).test) == 6


# Finding a set


def test_a_path_is_taken_as_it_is(make_set, monkeypatch, tmp_path):
    folder = make_set("mine")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", str(tmp_path))
    relative = Path(tmp_path.name) / "mine"
    for given_path in (folder, str(folder), f"{folder}/", relative, str(relative), "~/mine"):
        assert datasets.find(given_path).resolve() == folder.resolve()


@pytest.mark.parametrize("spelled", ["./mine", "mine/", "."])
def test_a_path_in_the_working_folder_is_a_path(make_set, monkeypatch, spelled):
    folder = make_set("mine")
    monkeypatch.chdir(folder if spelled == "." else folder.parent)
    assert load(spelled, 16).test.images.shape == (6, 1, 16, 16)
    assert datasets.find(spelled).resolve() == folder.resolve()


def test_a_loaded_set_outlives_a_change_of_the_working_folder(make_set, monkeypatch, tmp_path):
    folder = make_set("mine")
    monkeypatch.chdir(folder.parent)
    dataset = load(Path("..") / tmp_path.name / "mine", 16)
    monkeypatch.chdir("/")
    assert len(load_labels(dataset).test) == 6


def test_a_name_is_looked_up_in_data_sets_then_in_the_variable(
    make_set, set_writer, project_root, monkeypatch, tmp_path
):
    shelves = [tmp_path / "one", tmp_path / "two words"]
    monkeypatch.setenv("NBLIB_SETS", os.pathsep.join(map(str, shelves)))
    last = set_writer(shelves[1] / "lungs", seed=1)
    assert datasets.find("lungs") == last
    first = set_writer(shelves[0] / "lungs", seed=2)
    assert datasets.find("lungs") == first
    own = set_writer(project_root / "data" / "sets" / "lungs", seed=3)
    assert datasets.find("lungs").samefile(own)
    assert np.array_equal(load("lungs", 16).normal.images[0, 0], pixels_of(own, "normal_0.png"))


@pytest.mark.parametrize("name", ["no such set", "", "x" * 300, "a\0b", "~nobody/x", "a/b/c"])
def test_a_missing_set_is_an_error_that_names_the_places(monkeypatch, tmp_path, name):
    monkeypatch.setenv("NBLIB_SETS", str(tmp_path / "shelf"))
    with pytest.raises(DatasetError) as caught:
        load(name)
    if name == "no such set":
        for place in (tmp_path / "shelf" / name, Path("data") / "sets" / name):
            assert str(place) in str(caught.value)


def test_a_file_is_no_set(make_set, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="file"):
        load(tmp_path / "file")


VERSION = phantom.DRAWING


def test_the_phantom_is_drawn_where_it_is_missing(project_root, set_writer, monkeypatch):
    monkeypatch.delenv("NBLIB_SETS", raising=False)
    written = []

    def write(folder):
        written.append(folder)
        return of_version(set_writer(folder), VERSION)

    monkeypatch.setitem(datasets.DRAWN, "phantom", (write, VERSION))
    assert len(load("phantom", 16).test) == len(load("phantom", 16).test) == 6
    assert [folder.resolve() for folder in written] == [
        (project_root / "data" / "sets" / "phantom").resolve()
    ]


def of_version(folder, drawing):
    """A set whose data.json says which version of the drawing it is of."""
    content = json.loads((folder / "data.json").read_text()) | {"drawing": drawing}
    (folder / "data.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("drawing", [None, 1, "2"])
def test_a_phantom_of_another_version_is_set_aside_with_its_runs(
    project_root, set_writer, monkeypatch, capsys, drawing
):
    monkeypatch.delenv("NBLIB_SETS", raising=False)
    sets, runs = project_root / "data" / "sets", project_root / "data" / "runs" / "phantom"
    old = set_writer(sets / "phantom")
    before = (old / "data.json").read_text()
    if drawing:
        before = (of_version(old, drawing) / "data.json").read_text()
    runs.mkdir(parents=True)
    (runs / "mine").write_text("a run")
    small = dict(size=32, known_normal=3, unlabeled=(2, 2), test=(2, 2))
    write = phantom.write_phantom
    drawn = (lambda folder: write(folder, **small)), VERSION
    monkeypatch.setitem(datasets.DRAWN, "phantom", drawn)

    dataset = load("phantom")
    assert dataset.size == 32 and len(dataset.test) == 4
    aside = project_root / "data" / "aside" / "phantom1"
    assert (aside / "set" / "data.json").read_text() == before
    assert (aside / "runs" / "mine").read_text() == "a run" and not runs.exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(aside.resolve()) in said
    assert load("phantom").fingerprint == dataset.fingerprint and not capsys.readouterr().err


def test_a_set_may_name_the_size_that_it_is_read_at(make_set):
    folder = make_set()
    assert load(folder).size == 64
    file = folder / "data.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"size": 24}))
    assert load(folder).size == 24 and load(folder, 16).size == 16
    for wrong in ("24", 24.5, 0, -3, True, [24], None, 10**6):
        file.write_text(json.dumps(content | {"size": wrong}))
        with pytest.raises(DatasetError) as error:
            load(folder)
        assert error.value.problems == [
            f"{file}: size is {wrong!r}, but must be a whole number of pixels, at most 4096."
        ]


def test_images_are_decoded_in_parallel_with_progress(make_set, monkeypatch):
    # On a barrier: the two first files are opened at the same time, or neither is.
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    barrier, opened, counted = threading.Barrier(2), [], []
    really_open, really_progress = Image.open, datasets.progress

    def wait_for_another(file, **how):
        opened.append(file)
        if len(opened) <= 2:
            barrier.wait(timeout=10)
        return really_open(file, **how)

    def count(total, what, *args):
        for i in really_progress(total, what, *args):
            counted.append((i, total))
            yield i

    monkeypatch.setattr(Image, "open", wait_for_another)
    monkeypatch.setattr(datasets, "progress", count)
    folder = make_set()
    load(folder, 16)
    assert len(set(opened)) == 16 and counted == [(i, 16) for i in range(16)]


# The cache


def test_a_set_is_decoded_once_for_each_size_and_colour(make_set, no_decoding):
    folder = make_set()
    kinds = [(16, "grey"), (8, "grey"), (16, "rgb")]
    first = [load(folder, *kind) for kind in kinds]
    assert [d.test.images.shape[1:] for d in first] == [(1, 16, 16), (1, 8, 8), (3, 16, 16)]
    no_decoding()
    assert all(equal(one, load(folder, *kind)) for one, kind in zip(first, kinds, strict=True))
    with pytest.raises(DatasetError):
        load(folder, 12)


def test_other_lists_and_ratios_of_the_same_files_are_not_decoded_again(make_set, no_decoding):
    folder = make_set()
    load(folder, 16)
    no_decoding()
    split = split_of(folder)
    split["test"]["0"], split["train"]["0"] = split["train"]["0"], split["test"]["0"]
    write_split(folder, split)
    assert sorted(load(folder, 16).normal.names) == sorted(split["train"]["0"])
    assert len(load(folder, 16, unlabeled_ratio=0.5, unlabeled_size=4).unlabeled) == 4


def test_a_copy_of_a_set_has_the_same_fingerprint(make_set, tmp_path):
    folder = make_set("set")
    shutil.copytree(folder, tmp_path / "elsewhere" / "set")
    assert load(folder, 16).fingerprint == load(tmp_path / "elsewhere" / "set", 16).fingerprint


def rewrite(file, pixels):
    """Write other pixels of the same file size, and put the time of modification back."""
    status = file.stat()
    Image.fromarray(pixels).save(file, "BMP")
    assert file.stat().st_size == status.st_size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns


def test_a_changed_file_of_the_same_size_and_time_is_noticed(make_set):
    folder = make_set()
    file = folder / "images" / "normal_0.png"
    Image.fromarray(GREY).save(file, "BMP")
    before = load(folder, 16)
    assert np.array_equal(before.normal.images[0, 0], GREY)
    rewrite(file, 255 - GREY)
    after = load(folder, 16)
    assert np.array_equal(after.normal.images[0, 0], 255 - GREY)
    assert np.array_equal(after.test.images, before.test.images)
    assert after.fingerprint != before.fingerprint
    rewrite(file, GREY)
    assert equal(before, load(folder, 16)) and load(folder, 16).fingerprint == before.fingerprint


def test_a_link_to_another_file_is_noticed(make_set, tmp_path):
    folder = make_set()
    link = folder / "images" / "normal_0.png"
    for name, pixels in (("one", GREY), ("other", 255 - GREY)):
        Image.fromarray(pixels).save(tmp_path / name, "BMP")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
        link.unlink()
        link.symlink_to(tmp_path / name)
        assert np.array_equal(load(folder, 16).normal.images[0, 0], pixels)


def test_a_touched_file_is_not_decoded_again(make_set, no_decoding):
    folder = make_set()
    before = load(folder, 16)
    for file in (folder / "images").iterdir():
        os.utime(file, ns=(10**18, 10**18))
    shutil.copy(folder / "images" / "normal_1.png", folder / "copy")
    os.replace(folder / "copy", folder / "images" / "normal_1.png")
    no_decoding()
    assert equal(before, load(folder, 16))


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_cache_that_was_cut_off_is_never_used(make_set, project_root, no_decoding, share):
    folder = make_set()
    before = load(folder, 16)
    files = [f for f in (project_root / "data" / "cache").iterdir() if f.is_file()]
    assert len(files) >= 1
    for file in files:
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert equal(before, load(folder, 16))
    no_decoding()
    assert equal(before, load(folder, 16))


@pytest.mark.parametrize("junk", [b"", b"[]", b"null", b"1", b'{"normal_0.png": 5}', b"\xff\0"])
def test_a_cache_of_something_else_is_never_used(make_set, project_root, junk):
    folder = make_set()
    before = load(folder, 16)
    for file in (project_root / "data" / "cache").iterdir():
        file.write_bytes(junk)
    assert equal(before, load(folder, 16))


def test_a_full_disk_leaves_no_half_cache_and_says_where_there_was_no_room(make_set, project_root):
    folder, cache = make_set(), project_root / "data" / "cache"
    with pytest.raises(OSError, match=rf"^{cache}/\S+ cannot be written"), full_disk(3000):
        load(folder)
    assert not [file for file in cache.iterdir() if file.suffix != ".json"]
    assert len(load(folder).test) == 6


def test_a_crash_while_the_cache_is_written_does_no_harm(make_set, project_root, monkeypatch):
    folder = make_set()

    def fail_late(file, **arrays):
        file.write(b"PK\3\4 and half of it")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail_late)
        with pytest.raises(OSError, match="disk full"):
            load(folder, 16)
    assert not [f for f in (project_root / "data" / "cache").iterdir() if f.suffix != ".json"]
    assert np.array_equal(load(folder, 16).normal.images[0, 0], pixels_of(folder, "normal_0.png"))


LOAD = """
import sys
from nblib.data.datasets import load
print("ready", flush=True)
sys.stdin.readline()
dataset = load(sys.argv[1], 16)
images = [part.images for part in (dataset.normal, dataset.unlabeled, dataset.test)]
print(dataset.fingerprint, *(i.tobytes().hex() for i in images))
"""


def test_two_processes_at_once_do_no_harm(make_set, project_root, no_decoding):
    folder = make_set(counts={"train/0": 60})
    command = [sys.executable, "-c", LOAD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0] and said[0] == said[1]
    normal = np.frombuffer(bytes.fromhex(said[0][1]), np.uint8).reshape(60, 16, 16)
    names = sorted(split_of(folder)["train"]["0"])
    assert sorted(i.tobytes() for i in normal) == sorted(
        pixels_of(folder, name).tobytes() for name in names
    )
    assert not [f for f in (project_root / "data" / "cache").iterdir() if f.name.startswith(".")]
    no_decoding()
    assert load(folder, 16).fingerprint == said[0][0]


def test_nothing_is_written_into_the_sets_folder(make_set, project_root):
    folder = make_set(masks={"test_1_0.png": GREY})

    def state():
        return {f: (f.stat().st_mtime_ns, f.stat().st_ctime_ns) for f in folder.rglob("*")}

    before = state()
    load_labels(load(folder, 16))
    assert state() == before and any(project_root.rglob("*.npz"))


def test_the_fingerprint_tells_sizes_colours_and_ratios_apart(make_set):
    folder = make_set()
    loads = [
        load(folder, 16), load(folder, 8), load(folder, 16, "rgb"),
        load(folder, 16, unlabeled_ratio=0.5, unlabeled_size=2),
        load(folder, 16, unlabeled_ratio=0.5, unlabeled_size=4),
        load(folder, 16, unlabeled_ratio=0.5, unlabeled_size=2, seed=1),
    ]  # fmt: skip
    assert len({dataset.fingerprint for dataset in loads}) == len(loads)


def moved_to_another_part(folder):
    split = split_of(folder)
    split["test"]["0"].append(split["train"]["0"].pop())
    write_split(folder, split)


def moved_to_the_other_label(folder):
    split = split_of(folder)
    split["test"]["1"].insert(0, split["test"]["0"].pop())
    write_split(folder, split)


def given_patients(folder):
    write_patients(folder, patients_in_pairs(folder))


@pytest.mark.parametrize(
    "change", [moved_to_another_part, moved_to_the_other_label, given_patients]
)
def test_the_fingerprint_changes_with_the_lists_and_the_patients(make_set, change):
    folder = make_set()
    before = load(folder, 16).fingerprint
    change(folder)
    assert load(folder, 16).fingerprint != before


def test_missing_images_are_an_error(make_set):
    folder = make_set()
    (folder / "images").rename(folder / "pictures")
    one_problem(folder, "images", "train_png_512")


def test_missing_files_are_counted_and_named(make_set):
    folder = make_set()
    for name in ("normal_1.png", "test_1_2.png"):
        (folder / "images" / name).unlink()
    one_problem(folder, "2 of the 16", "normal_1.png", "test_1_2.png")


def remove_file(file):
    pass


def make_folder(file):
    file.mkdir()


def make_dangling_link(file):
    file.symlink_to("nowhere")


def make_circular_link(file):
    file.symlink_to(file.name)


def make_pipe(file):
    os.mkfifo(file)


def make_empty(file):
    file.write_bytes(b"")


def make_text(file):
    file.write_text("no image")


def make_half(file):
    Image.fromarray(COLOUR).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def make_half_jpeg(file):
    Image.fromarray(GREY).save(file, "JPEG")
    file.write_bytes(file.read_bytes()[:-20])


def make_damaged(file):
    Image.fromarray(GREY).save(file)
    content = bytearray(file.read_bytes())
    content[60] ^= 255
    file.write_bytes(content)


def make_header_alone(file):
    Image.fromarray(GREY).save(file)
    file.write_bytes(file.read_bytes()[:33])


def make_huge(file):
    """A TIFF that claims 60000 x 60000 pixels and holds none."""
    fields = {256: 60000, 257: 60000, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 60000, 279: 36}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in fields.items()
    )
    count = len(fields).to_bytes(2, "little")
    file.write_bytes(b"II*\0\x08\0\0\0" + count + entries + bytes(4))


@pytest.mark.parametrize(
    "make",
    [
        remove_file, make_folder, make_dangling_link, make_circular_link, make_pipe, make_empty,
        make_text, make_half, make_half_jpeg, make_damaged, make_header_alone, make_huge,
    ],
)  # fmt: skip
def test_what_is_no_whole_image_is_an_error(make_set, make):
    folder = make_set()
    (folder / "images" / "test_1_1.png").unlink()
    make(folder / "images" / "test_1_1.png")
    one_problem(folder, "test_1_1.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every file")
def test_an_image_without_permission_is_an_error(make_set):
    folder = make_set()
    (folder / "images" / "test_1_1.png").chmod(0)
    one_problem(folder, "test_1_1.png")


def test_every_unreadable_image_is_named(make_set):
    folder = make_set()
    broken = [f"normal_{i}.png" for i in range(4)] + [f"test_0_{i}.png" for i in range(3)]
    for name in broken:
        (folder / "images" / name).write_text("no image")
    assert len(problems_of(folder)) == 7
    assert all(name in "\n".join(problems_of(folder)) for name in broken)


def test_an_error_is_not_cached(make_set):
    folder = make_set()
    good = (folder / "images" / "normal_0.png").read_bytes()
    make_half(folder / "images" / "normal_0.png")
    problems_of(folder)
    (folder / "images" / "normal_0.png").write_bytes(good)
    assert np.array_equal(load(folder, 16).normal.images[0, 0], pixels_of(folder, "normal_0.png"))


@pytest.mark.parametrize(
    ("one", "other"),
    [("normal_0.png", "test_1_0.png"), ("normal_0.png", "mixed_0_0.png"),
     ("mixed_1_0.png", "test_0_0.png")],
)  # fmt: skip
@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_an_image_in_two_parts_is_an_error_whatever_its_file(make_set, one, other, file_format):
    folder = make_set()
    Image.open(folder / "images" / one).save(folder / "images" / other, file_format)
    part = {"normal": "normal", "mixed": "unlabeled", "test": "test"}
    words = [part[name.split("_")[0]] for name in (one, other)]
    one_problem(folder, *words, "pixels")
    assert one in problems_of(folder)[0] or other in problems_of(folder)[0]


def test_images_that_differ_in_one_pixel_only_at_full_size_are_two(make_set):
    folder = make_set()
    large = np.zeros((200, 200), np.uint8)
    large[0, 0] = 1
    Image.fromarray(large).save(folder / "images" / "normal_0.png")
    Image.fromarray(large.T * 0).save(folder / "images" / "test_0_0.png")
    dataset = load(folder, 4)
    assert np.array_equal(dataset.normal.images[0], dataset.test.images[0])


def test_the_same_image_twice_in_one_part_is_allowed(make_set):
    folder = make_set()
    shutil.copy(folder / "images" / "normal_0.png", folder / "images" / "normal_1.png")
    assert len(load(folder, 16).normal) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [("normal_0.png", "test_1_0.png"), ("normal_0.png", "mixed_0_0.png"),
     ("mixed_1_0.png", "test_0_0.png")],
)  # fmt: skip
def test_a_patient_in_two_parts_is_an_error(make_set, one, other):
    folder = make_set()
    patients = patients_in_pairs(folder)
    patients |= {one: "Jane Doe", other: "Jane Doe"}
    write_patients(folder, patients)
    part = {"normal": "normal", "mixed": "unlabeled", "test": "test"}
    words = [part[name.split("_")[0]] for name in (one, other)]
    one_problem(folder, "Jane Doe", "patient", *words)


def test_a_patient_with_both_labels_in_one_part_is_allowed(make_set):
    folder = make_set()
    patients = patients_in_pairs(folder)
    write_patients(folder, patients | {"test_0_0.png": "x", "test_1_0.png": "x"})
    assert list(load(folder, 16).test.patients).count("x") == 2


def test_an_image_without_a_patient_is_an_error(make_set):
    folder = make_set()
    patients = patients_in_pairs(folder)
    del patients["normal_2.png"]
    write_patients(folder, patients | {"test_0_1.png": ""})
    one_problem(folder, "metadata.csv", "2 images", "normal_2.png", "test_0_1.png")


def test_an_image_with_two_patients_is_an_error(make_set):
    folder = make_set()
    write_patients(folder, patients_in_pairs(folder))
    with open(folder / "metadata.csv", "a") as file:
        file.write("normal_2.png,somebody else\n")
    one_problem(folder, "metadata.csv", "normal_2.png")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n\n", b"\0" * 50, bytes(range(256)) * 5, b'image,patient\n"normal_0.png,1\n',
        b"image;patient\nnormal_0.png;1\n", b"image\tpatient\nnormal_0.png\t1\n",
        b"Image,Patient\nnormal_0.png,1\n", b"image,patient\nnormal_0.png,1,2,3\na,b,c,d,e,f\n",
        b"image,patient\n", b"image,patient\nnormal_0.png,\xe9\n", b"patient\n1\n",
    ],
)  # fmt: skip
def test_metadata_of_another_form_is_an_error(make_set, content):
    folder = make_set()
    (folder / "metadata.csv").write_bytes(content)
    one_problem(folder, "metadata.csv")


@pytest.mark.parametrize("cell", ["a\0b", "x" * 100_000], ids=["NUL", "long"])
@pytest.mark.parametrize("column", [0, 1])
def test_a_cell_that_can_be_no_name_is_an_error(make_set, cell, column):
    row = ["normal_0.png", "1"]
    row[column] = cell
    folder = make_set()
    (folder / "metadata.csv").write_text(f"image,patient\n{','.join(row)}\n")
    one_problem(folder, "metadata.csv", f"a cell of {('image', 'patient')[column]}", "NUL")


@pytest.mark.parametrize("name", ["metadata.csv", "data.json"])
@pytest.mark.parametrize("make", [make_pipe, make_dangling_link])
def test_a_link_to_nothing_or_a_pipe_is_an_error_and_nobody_waits(make_set, name, make):
    folder = make_set()
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    told = [problem for problem in problems_of(folder) if name in problem]
    assert told and all(problem.endswith(".") and "\n" not in problem for problem in told)


@pytest.mark.parametrize("wrong", ["", "windows", None, 1, ["window"], {}, "x" * 9999])
def test_a_conversion_that_there_is_not_is_one_of_the_problems(make_set, wrong):
    folder = make_set()
    write_split(folder, split_of(folder) | {"conversion": wrong, "size": "64"})
    told = problems_of(folder, None)
    assert len(told) == 2 and "size is '64'" in told[0]
    assert "conversion is" in told[1] and told[1].endswith("must be window or benchmark.")
    assert len(told[1]) < 400


def test_a_long_name_is_told_of_in_a_short_sentence(make_set):
    folder = make_set()
    split = split_of(folder)
    split["test"]["0"] += ["x" * 100_000, "a\0b"]
    write_split(folder, split)
    one_problem(folder, "no name of a file", "xxx...", "a\\x00b")
    assert len(problems_of(folder)[0]) < 500


def test_all_problems_of_the_lists_come_at_once(make_set):
    folder = make_set()
    split = split_of(folder)
    split["train"]["0"].append("test_0_0.png")
    split["train"]["unlabeled"]["0"] = []
    split["test"]["0"].append("test_0_1.png")
    del split["test"]["1"]
    write_split(folder, split)
    words = ("test_0_0.png", "train/unlabeled/0", "test_0_1.png", "test/1")
    assert_each_word_has_a_problem(folder, words)


def test_all_problems_of_the_images_come_at_once(make_set):
    folder = make_set()
    images, patients = folder / "images", patients_in_pairs(folder)
    (images / "normal_3.png").unlink()
    (images / "mixed_0_0.png").write_text("no image")
    (images / "mixed_0_1.png").write_text("no image")
    shutil.copy(images / "mixed_1_1.png", images / "test_1_1.png")
    write_patients(folder, patients | {"normal_0.png": "Jane", "test_0_0.png": "Jane"})
    words = ("normal_3.png", "mixed_0_0.png", "mixed_0_1.png", "pixels", "Jane")
    assert_each_word_has_a_problem(folder, words)


def test_problems_of_the_lists_do_not_hide_those_of_the_images(make_set):
    folder = make_set()
    split = split_of(folder)
    split["train"]["0"].append("test_0_0.png")
    write_split(folder, split)
    (folder / "images" / "test_1_1.png").unlink()
    (folder / "images" / "test_1_2.png").write_text("no image")
    assert_each_word_has_a_problem(folder, ("test_0_0.png", "test_1_1.png", "test_1_2.png"))


def test_missing_lists_do_not_hide_missing_images(make_set):
    folder = make_set()
    (folder / "data.json").unlink()
    (folder / "images").rename(folder / "pictures")
    assert_each_word_has_a_problem(folder, ("data.json", "train_png_512"))


def assert_each_word_has_a_problem(folder, words):
    problems = problems_of(folder)
    for word in words:
        assert any(word in problem for problem in problems), (word, problems)
    assert len(problems) == len(words)


@pytest.mark.parametrize("size", [0, -1, "64", 64.0, np.nan, True, 10**6])
def test_a_size_that_is_no_number_of_pixels_is_an_error_that_names_it(make_set, size):
    with pytest.raises(ValueError, match=f"size is {size!r}, but must be a whole number"):
        load(make_set(), size)


# The mix


@pytest.fixture
def mixed_set(make_set):
    """40 normal and 30 abnormal unlabeled images of patients with up to three, some with both."""
    folder = make_set(counts={"train/unlabeled/0": 40, "train/unlabeled/1": 30}, size=4)
    random = np.random.default_rng(0)
    unlabeled = split_of(folder)["train"]["unlabeled"]
    patients = {name: name for name in patients_in_pairs(folder)}
    for name in unlabeled["0"] + unlabeled["1"]:
        patients[name] = f"{random.integers(30):03d}"
    write_patients(folder, patients)
    return folder, patients, unlabeled


@pytest.mark.parametrize("size", [10, 17, 30, None])
def test_size_stays_constant_over_ratios_and_the_share_is_right(mixed_set, size):
    folder, _, unlabeled = mixed_set
    for ratio in (0, 0.1, 0.3, 0.5, 0.77, 1):
        names = mix(folder, ratio, size)
        assert len(names) == (size or 30)
        assert abs(len(names & set(unlabeled["1"])) - ratio * len(names)) <= 0.5


def test_abnormal_images_of_smaller_ratios_are_among_those_of_larger_ones(mixed_set):
    folder, _, unlabeled = mixed_set
    sets = [mix(folder, ratio, 30) for ratio in (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)]
    for smaller, larger in itertools.pairwise(sets):
        assert smaller & set(unlabeled["1"]) < larger & set(unlabeled["1"])
        assert larger & set(unlabeled["0"]) < smaller & set(unlabeled["0"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_patients_are_taken_whole_but_for_the_last(mixed_set, seed):
    folder, patients, unlabeled = mixed_set
    for ratio in (0.2, 0.5, 0.8):
        names = mix(folder, ratio, 24, seed)
        for kind in "01":
            cut = set()
            for patient in {patients[n] for n in names & set(unlabeled[kind])}:
                own = {n for n in unlabeled[kind] if patients[n] == patient}
                if not own <= names:
                    cut.add(patient)
            assert len(cut) <= 1


def test_the_seed_draws_the_mix(mixed_set):
    folder, *_ = mixed_set
    assert mix(folder, 0.5, 20, seed=1) == mix(folder, 0.5, 20, seed=1)
    assert len({frozenset(mix(folder, 0.5, 20, seed=k)) for k in range(5)}) == 5


def test_a_ratio_leaves_known_normals_and_test_as_they_are(mixed_set):
    folder, *_ = mixed_set
    whole, drawn = load(folder, 4), load(folder, 4, unlabeled_ratio=0.5, unlabeled_size=6)
    for part in ("normal", "test"):
        assert np.array_equal(getattr(whole, part).images, getattr(drawn, part).images)
    images = dict(zip(whole.unlabeled.names, whole.unlabeled.images, strict=True))
    for name, image in zip(drawn.unlabeled.names, drawn.unlabeled.images, strict=True):
        assert np.array_equal(images[name], image)


@pytest.mark.parametrize(
    ("ratio", "size"),
    [(-0.1, 4), (1.1, 4), (float("nan"), 4), (0.9, 40), (0.1, 60), (None, 4), (0.5, -4)],
)
def test_a_mix_that_cannot_be_had_is_an_error(mixed_set, ratio, size):
    with pytest.raises(ValueError):
        load(mixed_set[0], 4, unlabeled_ratio=ratio, unlabeled_size=size)


# Another size


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_a_set_at_another_size_is_a_fresh_load_at_that_size(make_set, colour):
    folder = make_set()
    green = Image.new("RGB", (16, 16), (10, 200, 30))
    green.paste((250, 0, 90), (4, 4, 9, 9))
    green.save(folder / "images" / "test_1_0.png")
    dataset = load(folder, 16, colour)
    for size in 8, 24:
        found, fresh = dataset.at(size), load(folder, size, colour)
        assert equal(found, fresh) and found.fingerprint == fresh.fingerprint
        assert (found.name, found.folder, found.size) == (dataset.name, folder, size)
        assert found.channels == dataset.channels == {"grey": 1, "rgb": 3}[colour]
        assert equal(found.at(16), dataset), "and back again"
    if colour == "rgb":
        image = dict(zip(found.test.names, found.test.images, strict=True))["test_1_0.png"]
        assert image[:, 0, 0].tolist() == [10, 200, 30]


def test_a_set_at_its_own_size_is_itself(make_set):
    for dataset in load(make_set(), 16), load(make_set("other"), 16, unlabeled_ratio=0.5):
        assert dataset.at(16) is dataset


@pytest.mark.parametrize(
    "ratio, size, seed", [(0.5, 20, 0), (0.2, 10, 1), (0.8, None, 2), (1, 5, 3)]
)
def test_a_drawn_mix_at_another_size_has_the_same_images_in_the_same_order(
    mixed_set, ratio, size, seed
):
    folder, patients, _ = mixed_set
    how = dict(unlabeled_ratio=ratio, unlabeled_size=size, seed=seed)
    dataset = load(folder, 4, **how)
    found = dataset.at(8)
    assert equal(found, load(folder, 8, **how))
    assert found.size == 8 and len(found.unlabeled) == (size or 30)
    for part in PARTS:
        before, after = getattr(dataset, part), getattr(found, part)
        for field in ("names", "patients", "sizes"):
            assert np.array_equal(getattr(before, field), getattr(after, field))
        assert list(after.patients) == [patients[name] for name in after.names]
    assert np.array_equal(load_labels(found).unlabeled, load_labels(dataset).unlabeled)


def test_the_order_of_a_parts_images_is_kept_whatever_it_is(make_set):
    dataset = load(make_set(counts={"train/unlabeled/0": 9}), 16)
    order = np.random.default_rng(0).permutation(len(dataset.unlabeled))[:7]
    shuffled = dataclasses.replace(dataset, unlabeled=dataset.unlabeled[order])
    found = shuffled.at(8)
    assert list(found.unlabeled.names) == list(dataset.unlabeled.names[order])
    assert np.array_equal(found.unlabeled.images, dataset.at(8).unlabeled.images[order])


def test_the_same_images_are_held_out_at_every_size(mixed_set):
    dataset = load(mixed_set[0], 4, unlabeled_ratio=0.5, unlabeled_size=20)
    here, there = (d.hold_out(seed=3, share=0.2) for d in (dataset, dataset.at(8)))
    for part in ("normal", "unlabeled", "held_normal", "held_unlabeled"):
        assert list(getattr(here, part).names) == list(getattr(there, part).names)


# Holding out


@pytest.fixture(scope="module")
def large_set(tmp_path_factory, set_writer):
    """300 known normals and 100 unlabeled images of patients with one to five."""
    counts = {"train/0": 300, "train/unlabeled/0": 50, "train/unlabeled/1": 50}
    folder = set_writer(tmp_path_factory.mktemp("large") / "set", counts, size=4)
    random = np.random.default_rng(0)
    patients = {}
    for name in patients_in_pairs(folder):
        part, many = name.split("_")[0], 100 if name.startswith("normal") else 40
        patients[name] = f"{part} {random.integers(many):03d}"
    write_patients(folder, patients)
    return load(folder, 4)


def names_of(*parts):
    return sorted(name for part in parts for name in part.names)


@pytest.mark.parametrize("share", [0, 0.1, 0.3])
def test_held_out_and_kept_images_are_all_images_once(large_set, share):
    held = large_set.hold_out(0, share)
    assert names_of(held.normal, held.held_normal) == names_of(large_set.normal)
    assert names_of(held.unlabeled, held.held_unlabeled) == names_of(large_set.unlabeled)
    images = dict(zip(large_set.normal.names, large_set.normal.images, strict=True))
    for part in (held.normal, held.held_normal):
        for name, image in zip(part.names, part.images, strict=True):
            assert np.array_equal(image, images[name])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whole_patients_are_held_out(large_set, seed):
    held = large_set.hold_out(seed)
    assert not set(held.normal.patients) & set(held.held_normal.patients)
    assert not set(held.unlabeled.patients) & set(held.held_unlabeled.patients)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_share_is_met_to_within_a_patient(large_set, share):
    held = large_set.hold_out(0, share)
    for all_of, part in ((large_set.normal, held.held_normal),
                         (large_set.unlabeled, held.held_unlabeled)):  # fmt: skip
        largest = np.unique(all_of.patients, return_counts=True)[1].max()
        assert share * len(all_of) <= len(part) < share * len(all_of) + largest


def test_at_least_twenty_normals_are_held_out(make_set):
    dataset = load(make_set(counts={"train/0": 90}, size=4), 4)
    assert len(dataset.hold_out(0).held_normal) == 20
    assert len(dataset.hold_out(0, 0.01).held_normal) == 20
    assert len(dataset.hold_out(0).held_unlabeled) == 1


def test_half_of_few_normals_stays_for_training(make_set):
    dataset = load(make_set(counts={"train/0": 11}, size=4), 4)
    held = dataset.hold_out(0)
    assert (len(held.normal), len(held.held_normal)) == (6, 5)


def test_something_is_always_left_to_train_on(make_set):
    folder = make_set()
    patients = {name: name.split("_")[0] for name in patients_in_pairs(folder)}
    write_patients(folder, patients)  # one patient a part
    with pytest.raises(ValueError, match="patient"):
        load(folder, 16).hold_out(0)


def test_a_share_of_nothing_holds_out_nothing(large_set):
    held = large_set.hold_out(0, share=0)
    assert len(held.held_normal) == len(held.held_unlabeled) == 0
    assert names_of(held.normal) == names_of(large_set.normal)
    assert held.held_normal.images.shape == (0, 1, 4, 4)


def test_the_seed_draws_who_is_held_out(large_set):
    drawn = [names_of(large_set.hold_out(seed).held_normal) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len({tuple(names) for names in drawn}) == 3


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_that_leaves_nothing_or_makes_no_sense_is_an_error(large_set, share):
    with pytest.raises(ValueError, match="share"):
        large_set.hold_out(0, share)


# Real sets


@pytest.mark.parametrize(
    ("name", "counts"),
    [("nih", (250, 200, 296)), ("fundus_dr", (138, 124, 152))],
)
def test_real_sets_load_as_they_are(real_sets, name, counts):
    dataset = load(real_sets(name), 8)
    assert tuple(len(getattr(dataset, part)) for part in PARTS) == counts
    labels = load_labels(dataset)
    assert labels.test.mean() == labels.unlabeled.mean() == 0.5
    assert (labels.masks is None) == (name != "nih")
    if name == "nih":
        assert labels.masks.any((1, 2)).sum() == 14 and labels.annotated.sum() == 148 + 14
