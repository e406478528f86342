import dataclasses
import fractions
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sets import GREY, PARTS, split_of, write_split

from nblib.data.datasets import DatasetError, load
from nblib.data.labels import load_labels

# Labels


def test_labels_are_those_of_data_json(make_set):
    dataset = load(make_set(), 16)
    labels = load_labels(dataset)
    assert list(labels.unlabeled) == [int("mixed_1" in n) for n in dataset.unlabeled.names]
    assert list(labels.test) == [int("test_1" in n) for n in dataset.test.names]
    assert labels.masks is labels.annotated is labels.lesions is None


def test_labels_live_in_another_object_than_the_images(make_set):
    folder = make_set(counts={"train/unlabeled/0": 7, "test/0": 9})
    dataset = load(folder, 16)
    held = dataset.hold_out(0)
    fields = {field.name for field in dataclasses.fields(dataset)}
    assert fields == {"name", "folder", "fingerprint", "conversion", *PARTS}
    for part in (*(getattr(dataset, p) for p in PARTS), *vars(held).values()):
        assert set(vars(part)) == {"images", "names", "patients", "sizes"}


def test_labels_follow_the_images_of_a_drawn_mix(make_set):
    folder = make_set(counts={"train/unlabeled/0": 12, "train/unlabeled/1": 12})
    dataset = load(folder, 16, unlabeled_ratio=0.25, unlabeled_size=8, seed=3)
    labels = load_labels(dataset).unlabeled
    assert list(labels) == [int("mixed_1" in name) for name in dataset.unlabeled.names]
    assert labels.sum() == 2


# Boxes and masks


def covered(boxes, width, height, size):
    """Pixels of a size x size image that some box touches, in exact fractions."""
    found = np.zeros((size, size), bool)
    for x, y, w, h in boxes:
        for row in range(size):
            for column in range(size):
                left = fractions.Fraction(column * width, size)
                top = fractions.Fraction(row * height, size)
                right, bottom = (
                    left + fractions.Fraction(width, size),
                    top + fractions.Fraction(height, size),
                )
                if x < right and x + w > left and y < bottom and y + h > top:
                    found[row, column] = True
    return found


def set_with_boxes(make_set, boxes, shape=(24, 40)):
    """test_1_0.png in another shape (height, width), with these boxes."""
    folder = make_set(boxes=[("test_1_0.png", *box) for box in boxes])
    pixels = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "test_1_0.png")
    dataset = load(folder, 16)
    labels, place = load_labels(dataset), list(dataset.test.names).index("test_1_0.png")
    return labels, place


@pytest.mark.parametrize("seed", range(6))
def test_boxes_cover_every_pixel_that_they_touch(make_set, seed):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 30, 2), random.integers(0, 14, 2)
    boxes = [(int(a), int(b), int(w), int(h)) for a, b, w, h in zip(
        x, y, random.integers(1, 11, 2), random.integers(1, 11, 2), strict=True)]  # fmt: skip
    labels, place = set_with_boxes(make_set, boxes)
    assert labels.masks.shape == (6, 16, 16) and labels.masks.dtype == bool
    assert np.array_equal(labels.masks[place], covered(boxes, 40, 24, 16))
    assert not np.delete(labels.masks, place, 0).any()


@pytest.mark.parametrize("box", [(-9, 3, 20, 8), (30, -5, 30, 12), (-5, -5, 60, 60)])
def test_boxes_are_cut_off_at_the_border(make_set, box):
    labels, place = set_with_boxes(make_set, [box])
    assert np.array_equal(labels.masks[place], covered([box], 40, 24, 16))


@pytest.mark.parametrize("box", [(40, 3, 20, 8), (30, 300, 30, 12), (-9, 3, 9, 8)])
def test_a_box_outside_of_its_image_is_an_error(make_set, box):
    with pytest.raises(DatasetError, match=r"boxes.csv: 1 boxes lie outside .* test_1_0.png"):
        set_with_boxes(make_set, [(1, 1, 4, 4), box])


def test_normal_images_and_those_with_lesions_are_annotated(make_set):
    dataset = load(make_set(boxes=[("test_1_1.png", 2.5, 3, 4.25, 4)]), 16)
    labels = load_labels(dataset)
    expected = {name: "test_0" in name or name == "test_1_1.png" for name in dataset.test.names}
    assert list(labels.annotated) == list(expected.values())


@pytest.mark.parametrize(
    "text",
    [
        "", "image|x|y|width|height\ntest_1_0.png|1|1|2|2\n", "name,x,y,width,height\na,1,1,2,2\n",
        "image,x,y,w,h\ntest_1_0.png,1,1,2,2\n", "image,x,y,width,height\ntest_1_0.png,a,1,2,2\n",
        "image,x,y,width,height\ntest_1_0,1,1,2,2\n",
        "image,x,y,width,height\ntest_1_0.png,9,9,-4,-4\n",
        "image,x,y,width,height\ntest_1_0.png,inf,1,2,2\n",
        "image,x,y,width,height\ntest_1_0.png,1,1,2,-inf\n",
        "image,x,y,width,height\ntest_1_0.png,nan,1,2,2\n",
        "image,x,y,width,height\ntest_1_0.png,1,1e308,2,2\n",
    ],
)  # fmt: skip
def test_boxes_of_another_form_are_an_error(make_set, text):
    folder = make_set()
    (folder / "boxes.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"boxes\.csv"):
        load_labels(load(folder, 16))


def test_semicolons_may_part_the_cells_as_spreadsheets_do(make_set):
    folder = make_set()
    (folder / "boxes.csv").write_text("image;x;y;width;height\ntest_1_0.png;4;4;3;3\n")
    assert load_labels(load(folder, 16)).masks.sum() == 9


def test_rows_without_a_box_say_nothing(make_set):
    folder = make_set(boxes=[("test_1_0.png", 4, 4, 3, 3), ("test_0_0.png", "", "", "", "")])
    labels = load_labels(load(folder, 16))
    assert labels.masks.sum() == 9


def lesion(size=32, seed=0):
    """A mask with one blob of several rectangles."""
    random, mask = np.random.default_rng(seed), np.zeros((size, size), bool)
    for _ in range(3):
        row, column = random.integers(4, size // 2, 2)
        mask[row : row + random.integers(4, 12), column : column + random.integers(4, 12)] = True
    return mask


def mask_at(make_set, mask, size=16):
    folder = make_set(masks={"test_1_0.png": mask})
    dataset = load(folder, size)
    labels = load_labels(dataset)
    place = list(dataset.test.names).index("test_1_0.png")
    assert not np.delete(labels.masks, place, 0).any()
    return labels.masks[place]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [32, 16, 8])
def test_masks_mark_the_pixels_that_a_lesion_fills_to_a_half(make_set, seed, size):
    mask = lesion(seed=seed)
    factor = 32 // size
    share = mask.reshape(size, factor, size, factor).mean((1, 3))
    found = mask_at(make_set, (mask * 255).astype(np.uint8), size)
    assert found.any() and np.array_equal(found, share >= 0.5)


def test_masks_are_enlarged_too(make_set):
    mask = np.kron(np.eye(2), np.ones((4, 4))) > 0
    found = mask_at(make_set, (mask * 255).astype(np.uint8), 16)
    assert np.array_equal(found, np.kron(mask, np.ones((2, 2))) > 0)


@pytest.mark.parametrize(
    "values",
    [
        lambda m: m.astype(np.uint8), lambda m: m.astype(np.uint8) * 3, lambda m: m,
        lambda m: m.astype(np.uint16) * 65535, lambda m: np.dstack([m * 255, m * 0, m * 0]),
    ],
    ids=["0 and 1", "0 and 3", "1-bit", "16-bit", "red"],
)  # fmt: skip
def test_whatever_is_not_zero_in_a_mask_is_lesion(make_set, values):
    mask = lesion(seed=1)
    share = mask.reshape(16, 2, 16, 2).mean((1, 3))
    array = values(mask)
    array = array.astype(np.uint8) if array.ndim == 3 else array
    assert np.array_equal(mask_at(make_set, array), share >= 0.5)


def test_a_lesion_smaller_than_half_a_pixel_is_still_a_lesion(make_set):
    mask = np.zeros((64, 64), np.uint8)
    mask[20, 41] = 255
    assert np.argwhere(mask_at(make_set, mask, 16)).tolist() == [[5, 10]]


def test_masks_of_jpegs_are_pngs_of_the_same_stem(make_set):
    folder = make_set(masks={"p.1.png": np.full((16, 16), 255, np.uint8)})
    split = split_of(folder)
    split["test"]["1"][0] = "p.1.jpg"
    (folder / "images" / "test_1_0.png").rename(folder / "images" / "p.1.jpg")
    write_split(folder, split)
    dataset = load(folder, 16)
    labels = load_labels(dataset)
    assert [bool(mask.any()) for mask in labels.masks] == [
        n == "p.1.jpg" for n in dataset.test.names
    ]
    assert list(labels.annotated) == [not n.startswith("test_1") for n in dataset.test.names]


def test_a_broken_mask_is_an_error(make_set):
    folder = make_set(masks={"test_1_0.png": GREY})
    (folder / "masks" / "test_1_0.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"masks.test_1_0\.png"):
        load_labels(load(folder, 16))


def test_masks_of_another_shape_or_of_no_image_are_named(make_set):
    folder = make_set(masks={"test_1_0.png": GREY})
    shape = np.asarray(Image.open(folder / "images" / "test_1_0.png")).shape
    Image.fromarray(np.zeros((2 * shape[0], 2 * shape[1]), np.uint8)).save(
        folder / "masks" / "test_1_1.png"
    )
    Image.fromarray(np.zeros((7, 90), np.uint8)).save(folder / "masks" / "test_1_2.png")
    (folder / "masks" / "test_1_0_mask.png").write_bytes(b"")
    (folder / "masks" / ".hidden").write_bytes(b"")
    shaped, named = label_problems(folder)
    assert "test_1_2.png" in shaped and "has 90 x 7 pixels, its image" in shaped
    assert named.endswith("test_1_0_mask.png is called as no image is (that of a.jpg is a.png).")


def test_lesions_are_read_with_names_as_text(make_set):
    folder = make_set()
    (folder / "images" / "007").symlink_to("test_1_0.png")
    (folder / "lesions.csv").write_text("image,kind,area\n007,nodule,0.25\n")
    table = load_labels(load(folder, 16)).lesions
    assert list(table.columns) == ["image", "kind", "area"]
    assert table["image"][0] == "007" and table["area"][0] == 0.25


def label_problems(folder):
    dataset = load(folder, 16)
    with pytest.raises(DatasetError) as caught:
        load_labels(dataset)
    assert all(told.endswith(".") and "\n" not in told for told in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,kind\ntest_1_0.png,nodule\n", "needs the columns image, kind, area"),
        ("image,kind,area\ntest_1_0.png,nodule,large\n", "1 rows hold no lesion"),
        ("image,kind,area\ntest_1_0.png,nodule,inf\n", "1 rows hold no lesion"),
        ("image,kind,area\ntest_1_0.png,nodule,-1\n", "such as that of test_1_0.png"),
        ("image,kind,area\nnowhere.png,nodule,1\n", "images that are not there: nowhere.png"),
        ("image,kind,area\n,nodule,1\n", "images that are not there: ''"),
        ("image,kind,area\n\0,nodule,1\n", "NUL"), ("", "no table"),
    ],
)  # fmt: skip
def test_lesions_of_another_form_are_an_error(make_set, text, words):
    folder = make_set()
    (folder / "lesions.csv").write_text(text)
    [told] = label_problems(folder)
    assert "lesions.csv" in told and words in told


def test_problems_of_lesions_come_with_those_of_boxes_and_masks(make_set):
    lesions = "image,kind,area\ntest_1_0.png,nodule,large\nnowhere.png,nodule,1\n"
    folder = make_set("boxes", boxes=[("test_1_0.png", 1, 1, "inf", 2)])
    (folder / "lesions.csv").write_text(lesions)
    assert [Path(told.split(".csv")[0]).name for told in label_problems(folder)] == [
        "boxes", "lesions", "lesions",
    ]  # fmt: skip
    folder = make_set("masks", masks={"test_1_0.png": GREY})
    for name in ("test_1_0.png", "test_1_1.png"):
        (folder / "masks" / name).write_text("no image")
    (folder / "lesions.csv").write_text(lesions)
    assert len(label_problems(folder)) == 4


@pytest.mark.parametrize("name", ["boxes.csv", "lesions.csv", "masks", "masks/test_1_0.png"])
def test_a_link_to_nothing_or_a_pipe_is_told_of_and_nobody_waits(make_set, name):
    for make in (lambda file: file.symlink_to("nowhere"), os.mkfifo):
        folder = make_set(f"{make}", masks={"test_1_1.png": GREY} if "/" in name else None)
        make(folder / name)
        [told] = label_problems(folder)
        assert name in told


def test_what_is_transparent_in_a_mask_is_no_lesion(make_set):
    mask = np.full((16, 16, 4), 255, np.uint8)
    mask[:8, :, 3] = 0
    assert np.array_equal(mask_at(make_set, mask), np.arange(16)[:, None] + np.zeros(16) >= 8)
