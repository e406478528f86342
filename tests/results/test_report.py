"""The pictures and the page that `scored.write_scored` leaves, the page in a real browser."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from browser import in_a_browser, opened
from files import full_disk
from nblib.results import report, scored
from nblib.training import runs

NASTY = "=cmd() <b>&'\"; x.png"


@pytest.fixture(scope="module")
def run(own_set):
    """A run that has maps and restored images."""
    return runs.run("pca16", own_set, "smoke")


@pytest.fixture
def source(tmp_path):
    """A wide picture with a bright spot on the left, a plain one, a nasty name, a damaged file."""
    folder = tmp_path / "in"
    folder.mkdir()
    wide = np.full((100, 300), 100, np.uint8)
    wide[30:60, 20:60] = 255
    Image.fromarray(wide).save(folder / "spot.png")
    Image.new("L", (2000, 1500), 100).save(folder / "large.png")
    Image.new("RGB", (64, 64), (10, 60, 10)).save(folder / NASTY)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def out(run, source, tmp_path):
    return scored.write_scored(source, [run], tmp_path / "out")[-1]


def picture(out, name, end=".jpg"):
    (file,) = (out / "pictures").glob(f"*-{name}{end}")
    return file


def data_of(out):
    text = (out / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_pictures_keep_their_shape_and_show_the_map_where_it_is_high(run, out):
    large = Image.open(picture(out, "large.png"))
    assert large.size == (report.SIDE, report.SIDE * 3 // 4)
    seen = np.asarray(Image.open(picture(out, "spot.png")).convert("RGB")).astype(int)
    assert seen.shape == (100, 300, 3)
    # Grey where the map is low; viridis' yellow has far less blue than red where it is high.
    colour = seen[..., 0] - seen[..., 2]
    assert colour[35:55, 25:55].mean() > colour[:, 150:].mean() + 20
    panel = Image.open(picture(out, "spot.png", ".panel.jpg"))
    assert panel.width > 2.9 * report.TILE * 3  # image, map, restored: three tiles of 3 to 1
    assert not list((out / "pictures").glob("*bad.png*"))


@pytest.mark.parametrize(
    "names", [["x" * 246 + ".png"], ["目" * 83 + ".png"], ["a.png", "a.png.jpg/b.png"]]
)
def test_each_image_has_its_picture_whatever_it_is_called(run, tmp_path, names):
    for level, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20 + level, 20)).save(tmp_path / "in" / name)
    table, _, out = scored.write_scored(tmp_path / "in", [run], tmp_path / "out")
    assert [row["image"] for row in data_of(out)] == list(table["image"])
    for row, name in enumerate(table["image"], 1):
        (file,) = (out / "pictures").glob(f"{row:04d}-{name[-5]}*[!l].jpg")  # but for .panel.jpg
        assert Image.open(file).width == 20 + names.index(name)


def test_a_full_disk_is_said_with_the_picture_that_has_no_room(run, source, tmp_path):
    where = rf"{tmp_path}/out/\.report\.\w+/(pictures|files)/\S+\.(jpg|png) cannot be written"
    # A page of an earlier table does not stay beside the new one.
    scored.write_scored(source / "spot.png", [run], tmp_path / "out")
    with pytest.raises(OSError, match=f"{where}: File too large"), full_disk(6000):
        scored.write_scored(source, [run], tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"README.txt", "scores.csv"}


def test_a_map_is_transparent_where_it_is_low():
    layer = report.coloured(np.array([[0, 255]], np.uint8))
    assert layer[0, 0, 3] == 0 and layer[0, 1, 3] == round(255 * report.OPAQUE)
    image = Image.new("RGB", (8, 4), (200, 10, 10))
    same = report.overlaid(image, np.zeros((4, 8), np.uint8))
    assert np.array_equal(np.asarray(same), np.asarray(image))


def test_rows_stand_in_the_order_of_the_table_with_what_there_is_of_each(out):
    rows = data_of(out)
    scores = [row["score"] for row in rows[:-1]]
    assert scores == sorted(scores, reverse=True) and rows[-1]["image"] == "bad.png"
    assert rows[-1]["problem"] == "is no image." and "thumbnail" not in rows[-1]
    assert all(row["shown"].startswith("data:image/jpeg") for row in rows[:-1])
    assert all(row["map"].startswith("data:image/png") for row in rows[:-1])


def test_many_pictures_lie_beside_the_page_and_are_no_part_of_it(
    run, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "EMBEDDED", 1000)
    *_, out = scored.write_scored(source, [run], tmp_path / "out")
    for row in data_of(out)[:-1]:
        assert (out / row["shown"]).stat().st_size and (out / row["map"]).stat().st_size
        assert row["thumbnail"].startswith("data:")
    monkeypatch.undo()
    scored.write_scored(source, [run], out)
    assert not (out / "report_files").exists()


def test_a_name_is_text_wherever_it_stands(out):
    text = (out / "report.html").read_text()
    assert "<b>&'" not in text and NASTY in [row["image"] for row in data_of(out)]


@in_a_browser
@pytest.mark.parametrize("embedded", [10**8, 1000])
def test_a_reader_filters_looks_marks_and_saves(run, source, tmp_path, monkeypatch, embedded):
    monkeypatch.setattr(report, "EMBEDDED", embedded)
    *_, out = scored.write_scored(source, [run], tmp_path / "out")
    rows = data_of(out)
    with opened((out / "report.html").as_uri()) as (page, asked):
        cards = page.locator(".card")
        assert cards.count() == 4
        assert page.locator("#predictive tr").count() == 4
        page.locator("#text").fill("SPOT")
        assert cards.count() == 1 and "spot.png" in cards.first.inner_text()
        page.locator("#text").fill("")
        page.locator("#decision").select_option("abnormal")
        assert cards.count() == sum(row["decision"] == "abnormal" for row in rows)
        page.locator("#decision").select_option("")

        place = [row["image"] for row in rows].index("spot.png")
        cards.nth(place).click()
        large = page.locator("dialog")
        assert large.is_visible() and page.locator("#name").inner_text() == "spot.png"
        page.wait_for_function("document.querySelector('.picture').naturalWidth == 300")
        # The map lies over the picture as it is drawn: three times as wide as high.
        box = page.locator(".map").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(3, rel=0.01)
        page.locator("#fade").fill("0")
        assert page.evaluate("getComputedStyle(document.querySelector('.map')).opacity") == "0"
        page.keyboard.press("m")
        page.keyboard.press("2")
        assert page.locator("[data-mark=disagree]").get_attribute("aria-pressed") == "true"
        page.locator("#comment").fill('rib, not "spot"\nsee 2;=2')
        page.locator("#after").click()
        assert page.locator("#name").inner_text() == rows[place + 1]["image"]
        page.locator("#before").click()
        assert page.locator("#comment").input_value() == 'rib, not "spot"\nsee 2;=2'
        page.keyboard.press("Escape")
        assert not large.is_visible()
        cards.nth(place).get_by_text("disagree").wait_for()  # the page hears of it later

        nasty = [row["image"] for row in rows].index(NASTY)
        cards.nth(nasty).click()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("3")
        page.keyboard.press("Escape")
        with page.expect_download() as saved:
            page.locator("#save").click()
        saved.value.save_as(tmp_path / "marks.csv")
        page.locator("#decision").select_option("marked")
        assert cards.count() == 2
        page.reload()
        page.locator("#decision").select_option("marked")
        assert cards.count() == 2  # the browser has kept them
    with open(tmp_path / "marks.csv", newline="") as file:
        marks = {row["image"]: row for row in csv.DictReader(file)}
    assert set(marks) == {"spot.png", f"'{NASTY}"}  # no formula for a spreadsheet
    assert marks["spot.png"]["mark"] == "disagree"
    assert marks["spot.png"]["comment"] == 'rib, not "spot"\nsee 2;\'=2'
    assert marks[f"'{NASTY}"]["mark"] == "look again"
    kinds = ("data:", "blob:", out.as_uri())
    assert all(address.startswith(kinds) for address in asked)


@in_a_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_the_window_and_prints(out, width):
    with opened((out / "report.html").as_uri(), width) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.emulate_media(media="print")
        assert not page.locator(".bar").is_visible() and page.locator(".card").first.is_visible()
