"""data.json, which lists the images of a set by part and, mostly, by label.

Whoever reads it knows labels: nothing that trains may import this page.
"""

import json
from collections import Counter
from pathlib import Path

from nblib.data.dicom import CONVERSIONS
from nblib.files import DatasetError, must_be_file, some

PARTS = {"train/0": "normal", "train/unlabeled": "unlabeled", "test": "test"}
"""Where data.json keeps the names of each part; those of the last two mostly by label, 0 or 1."""

LARGEST = 4096
"""Pixels of a side that a data.json may want: no method looks at more."""


def read_split(file: Path) -> dict[str, list[str]]:
    """The lists of file names of a data.json, by their keys such as 'train/unlabeled/0'.

    Raises DatasetError where the file is missing, is no JSON, or a list is missing, is empty
    (other than 'test', and 'train/unlabeled' where there are known normals alone) or names a file
    that is named already.
    """
    split, problems = checked_split(file)
    if problems:
        raise DatasetError(problems)
    return split


def checked_split(file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """As `read_split`, but what can be read of it, and a sentence for each problem."""
    try:
        content = _content(file)
    except FileNotFoundError:
        return {}, [f"{file} is missing: it lists the images of each part."]
    except OSError as error:
        return {}, [f"{file} cannot be read: {error.strerror}."]
    except (ValueError, RecursionError) as error:
        return {}, [f"{file} is no JSON: {error}."]
    split, problems, keys = {}, [], []
    for key, part in PARTS.items():
        by_label = part != "normal" and not isinstance(_at(content, key), list)
        keys += [f"{key}/0", f"{key}/1"] if by_label else [key]
    for key in keys:
        names = _at(content, key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            what = " (the labels of the test images)" if key.startswith("test") else ""
            problems.append(f"{file} has no list of file names at {key}{what}.")
        elif not names and key not in ("test", "train/unlabeled"):
            problems.append(f"{file}: the list {key} is empty.")
        else:
            split[key] = names
    parts = {part: set() for part in PARTS.values()}
    for key, names in split.items():
        parts[part_of(key)].update(names)
    problems += in_both({part: list(names) for part, names in parts.items()}, "file", file)
    twice = [name for names in split.values() for name, n in Counter(names).items() if n > 1]
    both = [n for p in ("train/unlabeled", "test") for n in common(split, f"{p}/0", f"{p}/1")]
    if twice + both:
        problems.append(f"{file} lists {some(twice + both)} twice in one part.")
    odd = [ascii(name) for names in split.values() for name in names if not _is_file_name(name)]
    if odd:
        problems.append(f"{file} lists what is no name of a file: {some(odd)}.")
        split = {key: list(filter(_is_file_name, names)) for key, names in split.items()}
    return split, problems


def checked_settings(file: Path, conversion: str = CONVERSIONS[0]) -> tuple[int, str, list[str]]:
    """What a data.json says beside its lists, and a sentence for each problem.

    That is the side in pixels that its images are to be scaled to, 64 if it says none or a wrong
    one; and how they were made of DICOM files, `conversion` if it does not say.
    """
    try:
        content = _content(file)
    except (OSError, ValueError, RecursionError):
        content = None  # which `checked_split` tells of
    content, problems = content if isinstance(content, dict) else {}, []
    size, conversion = content.get("size", 64), content.get("conversion", conversion)
    if type(size) is not int or not 1 <= size <= LARGEST:
        must = f"must be a whole number of pixels, at most {LARGEST}"
        problems.append(f"{file}: size is {some([repr(size)])}, but {must}.")
        size = 64
    if conversion not in CONVERSIONS:
        must = f"must be {' or '.join(CONVERSIONS)}"
        problems.append(f"{file}: conversion is {some([repr(conversion)])}, but {must}.")
    return size, conversion, problems


def _content(file: Path):
    must_be_file(file)
    return json.loads(file.read_text(encoding="utf-8-sig"))


def _at(content, key: str):
    """What stands in a nested dictionary under a key such as 'train/0'; None for nothing."""
    for word in key.split("/"):
        content = content.get(word) if isinstance(content, dict) else None
    return content


def part_of(key: str) -> str:
    """The part of a list in data.json, such as 'test' of 'test/0'."""
    return next(part for part_key, part in PARTS.items() if key.startswith(part_key))


def _is_file_name(name: str) -> bool:
    """Whether it is a text that names a file of a folder itself, rather than of another folder."""
    try:
        short = len(name.encode()) < 256
    except UnicodeEncodeError:
        return False
    return short and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def in_both(values: dict[str, list], what: str, where: Path) -> list[str]:
    """A sentence for each two parts which have a value in common."""
    names, problems = list(values), []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = common(values, one, other)
            if both:
                problems.append(
                    f"{where}: {len(both)} {what}{'s' * (len(both) > 1)} stand in both the "
                    f"{one} and the {other} part: {some(both)}."
                )
    return problems


def common(values: dict[str, list], one: str, other: str) -> list:
    """What stands in both of two named lists, in order."""
    return sorted(set(values.get(one, [])) & set(values.get(other, [])))
