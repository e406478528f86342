"""Damaged runs, kept scores and checkpoints: the same result as before, or one sentence.

NBLIB_FUZZ: how many damaged copies there are, by default 400. `pytest -s` prints what came out.
"""

import json
import os
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from nblib.data import datasets
from nblib.files import RunError
from nblib.methods.authors import AUTHORS_NAMES, load_authors_checkpoint
from nblib.methods.sagan import Generator
from nblib.results import store
from nblib.training import runs

COPIES = int(os.environ.get("NBLIB_FUZZ", "400"))

SENTENCES = (RunError, ValueError, FileNotFoundError)

RUN = "data/runs/own/smoke/ganomaly/base/seed0"
KEPT = "data/scores/own/smoke/ganomaly"


@pytest.fixture(scope="module")
def home(session_root, set_writer, tmp_path_factory):
    """A root with runs and kept scores of two seeds, and a checkpoint of the authors' generator."""
    root = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(root))
        parts = ("train/0", "train/unlabeled/0", "train/unlabeled/1", "test/0", "test/1")
        dataset = datasets.load(set_writer(root / "own", dict.fromkeys(parts, 12), size=32))
        for seed in (0, 1):
            runs.run("ganomaly", dataset, "smoke", seed)
        store.keep("own", "smoke")
    (root / "authors").mkdir()
    for seed, width in enumerate((4, 8)):  # what fits as well is not known to be another's
        torch.save(of_the_authors(generator(seed, width)), root / f"authors/{seed}-G.ckpt")
    return root


def generator(seed, width=4):
    torch.manual_seed(seed)
    return Generator(size=32, width=width)


def of_the_authors(G):
    """The weights of a generator under the authors' names of modules."""
    state = {name: G.get_submodule(place).state_dict() for name, place in AUTHORS_NAMES.items()}
    return {f"{name}.{key}": value for name, own in state.items() for key, value in own.items()}


# Damages


def flipped(content, random, other):
    content = np.frombuffer(content, np.uint8).copy()
    for at in random.integers(len(content), size=random.integers(1, 9)):
        content[at] ^= 1 << random.integers(8)
    return content.tobytes()


def cut(content, random, other):
    return content[: random.integers(len(content))]


def zeroed(content, random, other):
    begin = random.integers(len(content))
    length = min(len(content) - begin, random.integers(1, 200))
    return content[:begin] + bytes(length) + content[begin + length :]


def swapped(content, random, other):
    return other


def another_value(content, random, other):
    """One value of a JSON, at any depth, of another type or of another size."""
    record = inner = json.loads(content)
    while True:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = keys[random.integers(len(keys))]
        if not isinstance(inner[key], dict | list) or not inner[key] or random.random() < 0.3:
            break
        inner = inner[key]
    values = [None, "x", -1, 10**30, 0.123, True, [], {}, [[None]], "two\nlines"]
    inner[key] = values[random.integers(len(values))]
    return json.dumps(record, indent=1).encode()


DAMAGES = [flipped, cut, zeroed, swapped, another_value]


# Readers: of a root, what is read of it


def as_bytes(found):
    """What can be compared of anything that is read."""
    if isinstance(found, pd.DataFrame):
        return found.to_csv()
    if isinstance(found, np.ndarray):
        return found.tobytes()
    if isinstance(found, torch.Tensor):
        return found.numpy().tobytes()
    if isinstance(found, dict):
        return {name: as_bytes(value) for name, value in found.items()}
    return [as_bytes(value) for value in found] if isinstance(found, list | tuple) else found


def run_of(root):
    return runs.Run(root / RUN)


def generator_from(root):
    """The state of a generator; where the file is refused, it has to be as before."""
    G = generator(7)
    try:
        load_authors_checkpoint(G, root / "authors/0-G.ckpt")
    except ValueError:
        assert as_bytes(G.state_dict()) == as_bytes(generator(7).state_dict())
        raise
    return G.state_dict()


RUN_READERS = {
    "config": lambda root: run_of(root).config,
    "metrics": lambda root: run_of(root).metrics,
    "history": lambda root: run_of(root).history,
    "scores": lambda root: run_of(root).scores,
    "watched": lambda root: run_of(root).watched,
    "maps": lambda root: [run_of(root).test_map, run_of(root).held_map],
    "restored": lambda root: run_of(root).test_restored,
    "method": lambda root: run_of(root).method().state_dict(),
    "collect": lambda root: [result[:4] for result in store.collect("own", "smoke")],
}
KEPT_READERS = {
    "kept": lambda root: [result[:4] for result in store.collect("own", "smoke")],
}
AUTHORS_READERS = {"authors": generator_from}

# What is damaged, where the same file of another seed lies, its readers, its share of the copies.
TARGETS = {
    "a run": (RUN, ("seed0", "seed1"), RUN_READERS, 0.5),
    "kept scores": (KEPT, ("seed0", "seed1"), KEPT_READERS, 0.25),
    "an authors' file": ("authors", ("0-G", "1-G"), AUTHORS_READERS, 0.25),
}


def outcome(read, root, expected, name):
    """'same' or 'sentence'; all else fails."""
    try:
        found = read(root)
    except SENTENCES as error:
        (line,) = str(error).splitlines()
        assert name in line
        return "sentence"
    assert as_bytes(found) == expected, "read wrong, without a word"
    return "same"


@pytest.mark.parametrize("what", TARGETS)
def test_what_is_damaged_is_read_as_before_or_refused_in_a_sentence(
    home, tmp_path, monkeypatch, what
):
    folder, seeds, readers, share = TARGETS[what]
    root, counts = tmp_path / "root", Counter()
    monkeypatch.setenv("NBLIB_ROOT", str(root))
    shutil.copytree(home / folder, root / folder)
    files = sorted((root / folder).iterdir())
    files = [file for file in files if not file.name.startswith(seeds[1])]
    expected = {name: as_bytes(read(root)) for name, read in readers.items()}
    for i in range(round(COPIES * share)):
        random = np.random.default_rng(i)
        file = files[random.integers(len(files))]
        damage = DAMAGES[random.integers(len(DAMAGES) - (file.suffix != ".json"))]
        before = file.read_bytes()
        other = home / str(file.relative_to(root)).replace(*seeds)
        file.write_bytes(damage(before, random, other.read_bytes()))
        found = set()
        for name, read in readers.items():
            try:
                found.add(outcome(read, root, expected[name], file.name))
            except Exception as error:
                words = f"copy {i}: {file.name}, {damage.__name__}, by {name}"
                raise AssertionError(words) from error
        file.write_bytes(before)
        counts[damage.__name__, "refused" if "sentence" in found else "read as before"] += 1
    for (kind, how), count in sorted(counts.items()):
        print(f"{what}, {kind}: {count} {how}")
    assert {how for _, how in counts} >= {"refused"}
