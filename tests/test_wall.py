"""The wall between training and labels: an import rule, and ten ways round it that do not pass.

What a method or the loop imports, directly or through others, anywhere in its text, lies below the
wall; a method opens no file. So no label, no run and no score of a test image is within its reach.
"""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nblib
from nblib.data.batches import Batch, HeldOut, Part
from nblib.data.datasets import Dataset

PACKAGE = Path(nblib.__file__).parent
METHODS = sorted((PACKAGE / "methods").glob("*.py"))

FOR_METHODS = {"data.batches", "methods", "progress"}
"""Modules and rooms of nblib that a method may import."""

BELOW = FOR_METHODS | {
    "data", "files", "metrics", "training", "training.encoded", "training.folder", "training.loop"
}  # fmt: skip
"""Those that may be there once all methods and the loop are imported."""

# Words, in a name, an attribute, an import or a text.
WAYS_TO_IMPORT = {"__import__", "exec", "importlib", "import_module", "runpy", "sys"}
WAYS_TO_OPEN = {
    *("open", "read_text", "read_bytes", "read_csv", "read_table", "memmap", "fromfile", "io"),
    *("loadtxt", "genfromtxt", "load_file", "json", "pickle", "csv", "sqlite3", "codecs"),
    *("glob", "iterdir", "scandir", "listdir", "subprocess", "system", "popen", "os", "shutil"),
}
WAYS = WAYS_TO_IMPORT | WAYS_TO_OPEN
LAWFUL = rf"nblib\.({'|'.join(map(re.escape, FOR_METHODS))})\."
OPENS_BY_TORCH_LOAD = {"authors", "pretrained"}
"""The authors' checkpoints, and the weights that come with a package."""

IMPORTED = """
import json, sys
# What is there before a method is looked at:
import torch, nblib.training.loop, nblib.methods.catalogue
import ast, os

for file in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        for node in ast.walk(ast.parse(open(file).read())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node))
        loaded = [name for name in sys.modules if name.split(".")[0] == "nblib"]
        os.write(write, json.dumps(loaded).encode())
        os._exit(0)
    os.close(write)
    print(os.read(read, 100_000).decode() or "null")
    os.wait()
"""


def loaded(*files):
    """The modules of nblib that a fresh interpreter has loaded for all imports in each file."""
    command = [sys.executable, "-c", IMPORTED, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def above(modules):
    """Of some modules of nblib those that do not lie below the wall."""
    names = {name.removeprefix("nblib.") for name in modules} - {"nblib"}
    return sorted(name for name in names - BELOW if not name.startswith("methods."))


def named(file):
    """What a method must not name, and names: modules above it, ways to import or to open."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            whole = [f"{alias.name}." for alias in node.names]
        else:
            whole = []
        for name in whole:
            if name.startswith("nblib") and not re.match(LAWFUL, name):
                found.add(name.strip("."))
            found |= set(name.split(".")) & WAYS
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            found |= {name} & (WAYS | {"eval"} if isinstance(node, ast.Name) else WAYS)
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_call and node.func.attr == "load" and file.stem not in OPENS_BY_TORCH_LOAD:
            found.add("load")
        # Also as a word, for getattr.
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & WAYS
    return found


def test_the_loop_and_all_methods_together_load_nothing_that_knows_labels():
    (modules,) = loaded(PACKAGE / "training" / "loop.py")
    assert above(modules) == []
    of_the_catalogue = {file.stem for file in METHODS[1:]} - {"authors", "toy"}
    assert {f"nblib.methods.{stem}" for stem in of_the_catalogue} <= set(modules)


ROOMS = ["data", "methods", "training", "figures", "results", "widgets"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_before_it(room):
    later = {f"nblib.{name}" for name in ROOMS[ROOMS.index(room) + 1 :]}
    for file in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                assert not later & {".".join(name.split(".")[:2]) for name in names}, file


def test_what_a_method_imports_anywhere_in_its_text_lies_below_the_wall():
    assert [above(modules) for modules in loaded(*METHODS)] == [[]] * len(METHODS)


@pytest.mark.parametrize("file", METHODS, ids=lambda file: file.stem)
def test_a_method_names_no_module_above_it_and_opens_no_file(file):
    assert named(file) == set()


def test_what_a_method_loads_with_torch_are_tensors_alone():
    for stem in OPENS_BY_TORCH_LOAD:
        text = (PACKAGE / "methods" / f"{stem}.py").read_text()
        calls = [c for c in ast.walk(ast.parse(text)) if isinstance(c, ast.Call)]
        loads = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "load"]
        assert loads
        for call in loads:
            assert ast.literal_eval({k.arg: k.value for k in call.keywords}["weights_only"])


ROUND_IT = {
    "the scores of a finished run": """
        from nblib.training.runs import Run
        def labels(folder): return Run(folder).scores["label"]
    """,
    "the results of all runs": """
        from nblib.results.store import collect
        def labels(): return collect("nih", "laptop")[0].scores["label"]
    """,
    "a module that has imported it": """
        from nblib.widgets.found import datasets
        def labels(x): return datasets.load_labels(x)
    """,
    "the labels themselves": "from nblib.data.labels import load_labels",
    "an import inside a function": """
        def enough(self, held_out):
            from nblib.data.labels import load_labels
            return load_labels
    """,
    "the lists by label": "import nblib.data.split as lists",
    "a set drawn by label": """
        from nblib.data import datasets
        def abnormal(name): return datasets.load(name, unlabeled_ratio=1.0).unlabeled.names
    """,
    "the package, by attribute": """
        import nblib
        def labels(): return nblib.data.labels.load_labels
    """,
    "an import by name": """
        import importlib
        def labels(): return importlib.import_module("nblib.data." + "labels")
    """,
    "an import by a function of Python": """
        def labels(): return __import__("nblib.data.labels")
    """,
    "what is loaded already": """
        import sys
        def labels(): return sys.modules["nblib.data.labels"]
    """,
    "a file of scores": """
        import pandas as pd
        def labels(folder): return pd.read_csv(folder / "scores.csv")["label"]
    """,
    "the list of files": """
        from pathlib import Path
        def labels(folder): return Path(folder, "data.json").read_text()
    """,
    "a file, by getattr": """
        import torch
        def maps(file): return getattr(__builtins__, "open")(file)
    """,
    "the maps of a run": """
        import numpy as np
        def maps(folder): return np.load(folder / "maps.npz")
    """,
    "a helper of the loop": "from nblib.training.loop import pd",
    "the project's tables": "from nblib.files import read_table",
}


@pytest.mark.parametrize("text", ROUND_IT.values(), ids=ROUND_IT)
def test_a_method_that_goes_round_the_wall_would_not_pass(text, tmp_path):
    file = tmp_path / "throw_away.py"
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    file.write_text("\n".join(line[indent:] for line in lines))
    assert named(file)


def test_imports_alone_give_away_those_that_import_what_is_above(tmp_path):
    """The fresh interpreter finds them by itself, whatever is named in them."""
    files = []
    for i, line in enumerate(
        [
            "from nblib.training.runs import Run",
            "from nblib.results.store import collect",
            "from nblib.widgets.found import datasets",
            "def f():\n    from nblib.data import labels",
            "from nblib.training.loop import fit",
        ]
    ):
        files.append(tmp_path / f"way{i}.py")
        files[-1].write_text(line)
    *breaches, lawful = map(above, loaded(*files))
    assert all("data.labels" in breach for breach in breaches) and lawful == []


def test_what_training_is_handed_has_images_and_whose_they_are_but_no_label():
    assert {f.name for f in dataclasses.fields(Part)} == {"images", "names", "patients", "sizes"}
    parts = {f.name for f in dataclasses.fields(HeldOut)}
    assert parts == {"normal", "unlabeled", "held_normal", "held_unlabeled"}
    assert all(f.type is Part for f in dataclasses.fields(HeldOut))
    own = {f.name: f.type for f in dataclasses.fields(Dataset)}
    assert {name for name, kind in own.items() if kind is Part} == {"normal", "unlabeled", "test"}
    further = {"name", "folder", "fingerprint", "conversion"}
    assert own.keys() == {"normal", "unlabeled", "test"} | further
    assert Batch._fields == ("normal", "unlabeled", "pseudo")
