import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sets import GREY, PARTS, equal, one_problem, problems_of, split_of, write_split

from nblib.data.datasets import DatasetError, load
from nblib.data.labels import load_labels
from nblib.data.split import read_split

# Checks


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("RSNA", (3851, 4000, 5012, 1000, 1000)),
        ("VinCXR", (4000, 5606, 3394, 1000, 1000)),
        ("LAG", (1500, 832, 900, 811, 811)),
    ],
)
def test_counts_of_the_benchmarks_lists(splits, name, counts):
    split = read_split(splits(name))
    keys = ("train/0", "train/unlabeled/0", "train/unlabeled/1", "test/0", "test/1")
    assert tuple(len(split[key]) for key in keys) == counts
    assert len({name for names in split.values() for name in names}) == sum(counts)


def test_a_missing_data_json_is_an_error(make_set):
    folder = make_set()
    (folder / "data.json").unlink()
    one_problem(folder, "data.json", "missing")


LIST_KEYS = ["train/0", "train/unlabeled/0", "train/unlabeled/1", "test/0", "test/1"]
PART_OF = dict(zip(LIST_KEYS, ["normal", "unlabeled", "unlabeled", "test", "test"], strict=True))


def holder_of(split, key):
    *path, last = key.split("/")
    for word in path:
        split = split[word]
    return split, last


@pytest.mark.parametrize("key", [*LIST_KEYS, "train", "test", "train/unlabeled"])
def test_a_missing_key_is_an_error_that_names_its_lists(make_set, key):
    folder = make_set()
    split = split_of(folder)
    holder, last = holder_of(split, key)
    del holder[last]
    write_split(folder, split)
    lists = [name for name in LIST_KEYS if name.startswith(key)]
    problems = problems_of(folder)
    assert len(problems) == len(lists)
    assert all(any(name in problem for problem in problems) for name in lists)


@pytest.mark.parametrize("key", ["test/0", "test/1"])
def test_missing_labels_are_called_so(make_set, key):
    folder = make_set()
    split = split_of(folder)
    del split["test"][key[-1]]
    write_split(folder, split)
    one_problem(folder, key, "label")


@pytest.mark.parametrize("test", ["flat", "empty"])
def test_flat_lists_are_images_whose_labels_are_not_known(make_set, test):
    folder = make_set()
    split = split_of(folder)
    mix = split["train"]["unlabeled"]
    split["train"]["unlabeled"] = mix["1"] + mix["0"]
    split["test"] = split["test"]["0"] + split["test"]["1"] if test == "flat" else []
    write_split(folder, split)
    dataset = load(folder, 8)
    labels = load_labels(dataset)
    assert dataset.unlabeled.names.tolist() == split["train"]["unlabeled"]
    assert dataset.test.names.tolist() == split["test"]
    assert dataset.test.images.shape == (len(split["test"]), 1, 8, 8)
    assert labels.unlabeled.tolist() == [-1] * 6
    assert labels.test.tolist() == [-1] * len(dataset.test)
    with pytest.raises(ValueError, match="no labels to draw a ratio"):
        load(folder, 8, unlabeled_ratio=0.5)


def test_a_missing_test_part_is_an_error_but_an_empty_list_is_not(make_set):
    folder = make_set()
    split = split_of(folder)
    del split["test"]
    write_split(folder, split)
    problems = problems_of(folder)
    assert len(problems) == 2 and all("label" in problem for problem in problems)


@pytest.mark.parametrize("key", LIST_KEYS)
def test_an_empty_part_is_an_error(make_set, key):
    folder = make_set(counts={key: 0})
    one_problem(folder, key, "empty")


@pytest.mark.parametrize(
    ("one", "other"),
    [("train/0", "test/1"), ("train/0", "train/unlabeled/0"), ("train/unlabeled/1", "test/1")],
)
def test_a_file_in_two_parts_is_an_error(make_set, one, other):
    folder = make_set()
    split = split_of(folder)
    (holder, last), (second, key) = holder_of(split, one), holder_of(split, other)
    second[key].append(holder[last][0])
    write_split(folder, split)
    one_problem(folder, holder[last][0], *(PART_OF[key] for key in (one, other)))


@pytest.mark.parametrize(
    ("one", "other"), [("train/unlabeled/0", "train/unlabeled/1"), ("test/0", "test/1")]
)
def test_a_file_with_two_labels_is_an_error(make_set, one, other):
    folder = make_set()
    split = split_of(folder)
    (holder, last), (second, key) = holder_of(split, one), holder_of(split, other)
    second[key].append(holder[last][0])
    write_split(folder, split)
    one_problem(folder, holder[last][0], "twice")


@pytest.mark.parametrize("key", LIST_KEYS)
def test_a_file_listed_twice_is_an_error(make_set, key):
    folder = make_set()
    split = split_of(folder)
    holder, last = holder_of(split, key)
    holder[last].append(holder[last][0])
    write_split(folder, split)
    one_problem(folder, holder[last][0], "twice")


ODD_NAMES = ["x" * 300 + ".png", "\ud800.png", "a\0.png", "", ".", "..", "/", "images", "a/b.png"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_no_file_are_an_error_that_can_be_printed(make_set, name):
    folder = make_set()
    split = split_of(folder)
    split["test"]["0"][0] = name
    write_split(folder, split)
    assert "\n".join(problems_of(folder)).encode()


def test_a_name_that_is_no_text_is_an_error_though_the_file_is_there(make_set):
    folder, name = make_set(), "t\udcff.png"
    (folder / "images" / "test_0_0.png").rename(folder / "images" / name)
    split = split_of(folder)
    split["test"]["0"][0] = name
    write_split(folder, split)
    one_problem(folder, "no name of a file", r"t\udcff.png")


@pytest.mark.parametrize("spelled", ["./{0}", "../images/{0}", "../images/./{0}", "{1}/{0}"])
def test_a_file_spelled_in_two_ways_is_an_error(make_set, spelled):
    folder = make_set()
    split = split_of(folder)
    split["test"]["1"].append(spelled.format("test_0_0.png", (folder / "images").resolve()))
    write_split(folder, split)
    one_problem(folder, "test_0_0.png")


def test_a_name_that_leads_out_of_the_folder_is_an_error(make_set, tmp_path):
    folder = make_set()
    Image.fromarray(GREY).save(tmp_path / "other.png")
    split = split_of(folder)
    split["test"]["1"].append("../../other.png")
    write_split(folder, split)
    one_problem(folder, "../../other.png")


def test_names_that_differ_in_case_are_two_files(make_set):
    folder = make_set()
    Image.fromarray(GREY).save(folder / "images" / "NORMAL_0.png")
    if len(list((folder / "images").iterdir())) == 16:
        pytest.skip("a file system that does not tell cases apart")
    split = split_of(folder)
    split["test"]["1"].append("NORMAL_0.png")
    write_split(folder, split)
    assert "NORMAL_0.png" in load(folder, 16).test.names


# Damaged lists: any value anywhere


@pytest.fixture(scope="module")
def whole_set(tmp_path_factory, set_writer):
    return set_writer(tmp_path_factory.mktemp("damaged") / "set", {k: 2 for k in LIST_KEYS}, size=4)


def nodes(value, path=()):
    """The paths to all values in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children if isinstance(value, dict | list) else ():
        yield from nodes(child, (*path, key))


WHOLE = {
    "train": {
        "0": ["normal_0.png", "normal_1.png"],
        "unlabeled": {
            "0": ["mixed_0_0.png", "mixed_0_1.png"],
            "1": ["mixed_1_0.png", "mixed_1_1.png"],
        },
    },
    "test": {"0": ["test_0_0.png", "test_0_1.png"], "1": ["test_1_0.png", "test_1_1.png"]},
}
WORDS = st.sampled_from(["0", "1", "train", "test", "unlabeled", "normal_0.png", "test_1_0.png"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def listed_in(split):
    """All names of a split; those of test and unlabeled images may be empty, but as a whole."""
    lists = [split["train"]["0"]]
    for part in (split["train"]["unlabeled"], split["test"]):
        lists += [part] if isinstance(part, list) else [part["0"], part["1"]]
    assert all(isinstance(names, list) for names in lists)
    may_be_empty = split["test"], split["train"]["unlabeled"]
    assert all(names or any(names is whole for whole in may_be_empty) for names in lists)
    return [name for names in lists for name in names]


def assert_loads_or_says_why(folder):
    try:
        dataset = load(folder, 4)
    except DatasetError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
    else:
        listed = listed_in(split_of(folder))
        assert all(isinstance(name, str) for name in listed)
        assert len(set(listed)) == len(listed)
        assert sum(len(getattr(dataset, part)) for part in PARTS) == len(listed)


@settings(max_examples=100)
@given(path=st.sampled_from(list(nodes(WHOLE))), value=VALUES)
def test_any_value_anywhere_in_data_json_loads_or_says_why(whole_set, path, value):
    split = json.loads(json.dumps(WHOLE))
    if path:
        holder = split
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
    write_split(whole_set, split if path else value)
    assert_loads_or_says_why(whole_set)


@settings(max_examples=60)
@given(cut=st.integers(0, 300), junk=st.binary(max_size=10))
def test_any_damage_to_the_text_of_data_json_loads_or_says_why(whole_set, cut, junk):
    text = json.dumps(WHOLE).encode()
    (whole_set / "data.json").write_bytes(text[:cut] + junk + text[cut + len(junk) :])
    try:
        load(whole_set, 4)
    except DatasetError as error:
        assert "data.json" in str(error)


@settings(max_examples=30)
@given(st.binary(max_size=40))
def test_bytes_that_are_no_json_are_an_error(whole_set, content):
    (whole_set / "data.json").write_bytes(content)
    one_or_more = problems_of(whole_set, 4)
    assert all("data.json" in problem for problem in one_or_more)


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_json_nested_too_deeply_is_an_error(make_set, depth):
    folder = make_set()
    (folder / "data.json").write_text("[" * depth + "]" * depth)
    assert problems_of(folder)


def test_a_folder_named_data_json_is_an_error(make_set):
    folder = make_set()
    (folder / "data.json").unlink()
    (folder / "data.json").mkdir()
    one_problem(folder, "data.json")


def test_data_json_may_begin_with_a_byte_order_mark(make_set):
    folder = make_set()
    before = load(folder, 16)
    text = (folder / "data.json").read_bytes()
    (folder / "data.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert equal(before, load(folder, 16))
