"""Scored images -> pictures with heat maps, and a page on which a reader can judge them.

The page is one file with everything in it up to `EMBEDDED` bytes of pictures, and needs a folder
beside it above that. It loads nothing from elsewhere, and nothing leaves it.
"""

import base64
import io
import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from nblib.data.dicom import Read
from nblib.data.images import ImageError, read_all
from nblib.figures.of_a_run import map_limit
from nblib.files import passing_folder, written_whole
from nblib.progress import progress
from nblib.training.runs import Run
from nblib.training.scoring import Seen, conversion_of

SIDE, THUMBNAIL, TILE = 1024, 160, 320
"""Pixels: the longer side of a picture, of a thumbnail, and the height of a tile of a panel."""

LAYER = 128
"""Pixels along a kept heat map, at most: it is drawn as large as its picture."""

OPAQUE = 0.75
"""How much of a picture its heat map hides where it is highest."""

COLOURS = (matplotlib.colormaps["viridis"](np.arange(256)) * 255).round().astype(np.uint8)
COLOURS[:, 3] = np.linspace(0, 255 * OPAQUE, 256).round()

QUALITY = 85
"""Of JPEGs."""

KNOWN = ("image", "score", "percentile", "decision", "problem")
"""Columns of the table that the page shows."""

EMBEDDED = 50 * 10**6
"""Bytes of pictures that a page holds itself."""

TEMPLATE = Path(__file__).parents[1] / "static" / "report.html"


class Layers:
    """The heat maps and restored images of one run, small: uint8, a row an image of the source."""

    def __init__(self, run: Run):
        self.method, self._kept = run.config["method"], []
        self._run, self._limit = run, None

    def noted(self, found: Seen | ImageError) -> Seen | ImageError:
        """Keep what was found of the next image; returns it."""
        nothing = isinstance(found, ImageError)
        map = None if nothing else found.map
        if map is not None:
            self._limit = self._limit or map_limit(self._run) or 1.0
            map = _small(np.clip(map / self._limit, 0, 1))
        restored = None if nothing or found.restored is None else found.restored
        if restored is not None:
            restored = np.stack([_small((plane + 1) / 2) for plane in restored.clip(-1, 1)], -1)
        self._kept.append((map, restored))
        return found

    def at(self, place: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Map (h, w) and restored image (h, w, C) of the image at a place, or None."""
        return self._kept[place]


def write(
    table: pd.DataFrame,
    files: list[Path],
    asked: list[Run],
    layers: list[Layers],
    out: Path,
    predictive: pd.DataFrame,
) -> None:
    """Write `pictures/` and `report.html` into a folder; what was there before is replaced whole.

    table: `scored.joined`, whose index is the place of each image among `files`; layers: of each
    run; predictive: `scored.predictive`.
    """
    place = {file: i for i, file in enumerate(files)}
    with passing_folder(out, "report") as fresh:
        (fresh / "files").mkdir()

        def drawn(file: Path, found: Read) -> bytes:
            of = place[file]
            to = fresh / "pictures" / table["picture"][of], fresh / "files" / str(of)
            return _draw(found.image, [(one.method, *one.at(of)) for one in layers], *to)

        made = read_all(files, conversion_of(asked[0]), drawn)
        thumbnails = [of for _, of in zip(progress(len(files), "pictures"), made, strict=True)]
        large = sum(file.stat().st_size for file in (fresh / "files").iterdir()) > EMBEDDED
        rows = [
            _row(row, thumbnails[of], fresh / "files" / str(of), large)
            for of, row in zip(table.index, table.to_dict("records"), strict=True)
        ]
        remove(out)
        for name, new, kept in (("pictures", "pictures", True), ("report_files", "files", large)):
            if kept and (fresh / new).exists():
                (fresh / new).rename(out / name)
    with written_whole(out / "report.html", "w") as file:
        file.write(page(rows, table, asked, predictive))


def remove(out: Path) -> None:
    """Remove the page and its pictures from a folder, if they are there."""
    (out / "report.html").unlink(missing_ok=True)
    for name in ("pictures", "report_files"):
        shutil.rmtree(out / name, ignore_errors=True)


def page(rows: list[dict], table: pd.DataFrame, asked: list[Run], predictive: pd.DataFrame) -> str:
    """The page: `rows` for its script, and in words what was asked of whom."""
    from jinja2 import Environment

    config = asked[0].config
    counts = table["decision"].replace("", "no decision").value_counts()
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text()
    )
    # No tag can end inside a string of the data.
    data = json.dumps(rows, allow_nan=False).replace("<", "\\u003c")
    return template.render(
        data=data,
        methods=[run.config["method"] for run in asked],
        trained_on=config["set"],
        held=len(asked[0].held_out),
        counts=counts.to_dict(),
        images=len(table),
        predictive=[
            {name: "-" if pd.isna(value) else f"{value:.0%}" for name, value in row.items()}
            for row in predictive.to_dict("records")
        ],
    )


def overlaid(image: Image.Image, map: np.ndarray) -> Image.Image:
    """An RGB image with a heat map (h, w), uint8, over it: transparent where it is low."""
    layer = Image.fromarray(coloured(map)).resize(image.size, Image.Resampling.BILINEAR)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def coloured(map: np.ndarray) -> np.ndarray:
    """A heat map (h, w), uint8, as RGBA (h, w, 4): viridis, opaque where it is high."""
    return COLOURS[map]


def _draw(image: Image.Image, found: list[tuple], picture: Path, own: Path) -> bytes:
    """Write what is to be seen of one image; returns its thumbnail.

    found: of each run its name, map and restored image, or None; picture, own: what the files for
    everybody, and those of the page, are called but for their ends.
    """
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    map = found[0][1]
    shown = image if map is None else overlaid(image, map)
    _save(shown, picture, ".jpg")
    _save(_panel(image, found), picture, ".panel.jpg")
    _save(image, own, ".jpg")
    if map is not None:
        _save(Image.fromarray(coloured(map)), own, ".png")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def _save(image: Image.Image, stem: Path, end: str) -> None:
    with written_whole(stem.with_name(stem.name + end)) as file:
        image.save(file, {".jpg": "JPEG", ".png": "PNG"}[end[-4:]], quality=QUALITY)


def _panel(image: Image.Image, found: list[tuple]) -> Image.Image:
    """The image, and of each run its heat map and restored image, side by side, as high each."""
    width = max(1, round(image.width * TILE / image.height))
    tiles = {"image": image}
    for method, map, restored in found:
        if map is not None:
            tiles[f"{method}: map"] = Image.fromarray(coloured(map)[..., :3])
        if restored is not None:
            tiles[f"{method}: restored"] = Image.fromarray(restored.squeeze())
    font = ImageFont.load_default(14)
    panel = Image.new("RGB", (len(tiles) * (width + 4) - 4, TILE + 22), "white")
    draw = ImageDraw.Draw(panel)
    for i, (name, tile) in enumerate(tiles.items()):
        draw.text((i * (width + 4), 2), name, "black", font)
        panel.paste(tile.convert("RGB").resize((width, TILE)), (i * (width + 4), 22))
    return panel


def _row(row: dict, thumbnail: bytes | ImageError, own: Path, beside: bool) -> dict:
    """What the page's script knows of one image; its pictures as data, or as addresses of files."""
    known = {name: None if pd.isna(value) else value for name, value in row.items()}
    found = {name: known[name] for name in KNOWN}
    found["ranks"] = {
        k.split(" ", 1)[1]: v for k, v in known.items() if k.startswith("percentile ")
    }
    if not isinstance(thumbnail, ImageError):
        found["thumbnail"] = _address(thumbnail, ".jpg")
    for name, suffix in {"shown": ".jpg", "map": ".png"}.items():
        file = own.with_suffix(suffix)
        if file.exists():
            as_data = "" if beside else _address(file.read_bytes(), suffix)
            found[name] = as_data or f"report_files/{file.name}"
    return found


def _address(data: bytes, suffix: str) -> str:
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _small(values: np.ndarray) -> np.ndarray:
    """Values (h, w) in 0 to 1 as uint8, at most `LAYER` along a side."""
    image = Image.fromarray((values * 255).round().astype(np.uint8))
    image.thumbnail((LAYER, LAYER))
    return np.asarray(image)
