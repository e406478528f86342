"""SIGKILL at random moments, again and again; then the same command, left alone, has to end with
the tables of one that was never killed.

    python tests/checks/kills.py [--kills 100] [--few]

A kill hits the whole group of a command's processes, or its first one alone, whose children are
then orphans; one of five is none, but too little memory. The batch of all notebooks takes 40 of 100
kills, --few leaves it and the report out. Prints a line a command and ends with 1 where anything
differs or is left: a table in one byte (but for columns of seconds), a process, a file in the
temporary folder, a folder half made, a lock that is held.
"""

import argparse
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock, Timeout
from PIL import Image

PROJECT = Path(__file__).parents[2]

PREPARE = """
import sys
from nblib.data import folders, new_set
if not new_set.is_there("own"):
    folders.prepare(sys.argv[1], "own")
"""
TRAIN = """
import sys
from nblib.data import datasets
from nblib.training import runs
for method in ("sagan", "pca16"):
    runs.run(method, datasets.load("own"), "smoke")
"""
RUN = "data/runs/own/smoke/{}/base/seed0"
NBLIB = "-m", "nblib"
BATCH = "--budget", "smoke", "--jobs", "2"

COMMANDS = {
    "prepare": ("-c", PREPARE, "{images}"),
    "train": ("-c", TRAIN),
    "score": (*NBLIB, "score", "{images}/normal", "--run", RUN.format("sagan")),
    "keep": (*NBLIB, "keep", "own", "smoke"),
    "figures": (*NBLIB, "batch", "all", *BATCH),
    "report": (*NBLIB, "batch", "report", *BATCH),
}
"""What is killed, in an order in which each finds what the ones before it made."""

OF_TIME = r"digest|second|_s$|ms_|ms an|per_image|training s|commit"
"""Columns and entries that are not the same twice."""

APART = ("cache", "html", "executed")


def main(kills: int, few: bool) -> int:
    """How many commands ended otherwise than undisturbed."""
    names = [name for name in COMMANDS if not few or name not in ("figures", "report")]
    share = {name: 0.4 if name == "figures" else (1 if few else 0.6) for name in names}
    others = len(names) - (not few)
    chance, bad = random.Random(0), 0
    with tempfile.TemporaryDirectory() as where:
        images = _images(Path(where) / "images")
        quiet, killed = (Place(Path(where) / name, images) for name in ("quiet", "killed"))
        left = kills
        for i, name in enumerate(names):
            mine = round(kills * share[name] / (1 if name == "figures" else others))
            mine = left if i == len(names) - 1 else min(mine, left)
            left -= mine
            began = time.monotonic()
            quiet.run(name)
            lasts = time.monotonic() - began
            # A batch goes on where it was killed: so that not the first few kills see all of it.
            wait = min(lasts, max(20, 3 * lasts / mine)) if mine else 0
            hits = sum(killed.disturb(name, wait, chance) for _ in range(mine))
            killed.run(name)
            problems = [*_differences(quiet.root, killed.root), *killed.left(quiet)]
            bad += bool(problems)
            print(f"{name}: {hits} of {mine} kills hit it; {len(problems)} problems", *problems,
                  sep="\n  ", flush=True)  # fmt: skip
    return bad


class Place:
    """A root and a temporary folder of its own, in which commands are run."""

    def __init__(self, folder: Path, images: Path):
        self.root, self.temporary, self.images = folder / "root", folder / "tmp", images
        self.said = folder / "said"
        for path in (self.root, self.temporary):
            path.mkdir(parents=True)
        self.environment = os.environ | {
            "NBLIB_ROOT": str(self.root),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(PROJECT),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, name: str) -> None:
        """Run a command to its end; ends all where it fails."""
        with self._started(name) as process:
            status = process.wait()
        if status:
            sys.exit(f"{name} ended with {status}:\n{self.said.read_text()}")

    def disturb(self, name: str, at_most: float, chance: random.Random) -> bool:
        """Run a command, and end it by force after at most so many seconds; whether that hit it."""
        memory, seconds = None, chance.uniform(0, at_most)
        if chance.random() < 0.2:
            # A limit: OpenBLAS, where it gets no memory as it is loaded, tries again for ever.
            memory, seconds = int(10 ** chance.uniform(8, 9.5)), at_most + 60
        with self._started(name, memory) as process:
            try:
                return process.wait(seconds) != 0
            except subprocess.TimeoutExpired:
                if chance.random() < 0.5:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
                return True

    def _started(self, name: str, memory: int | None = None) -> subprocess.Popen:
        """A command in a group of its own; memory: of each of its processes, in bytes."""

        def limit() -> None:
            if memory:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

        words = [word.format(images=self.images) for word in COMMANDS[name]]
        with open(self.said, "w") as said:
            return subprocess.Popen(
                [sys.executable, *words], cwd=self.root, env=self.environment, stdout=said,
                stderr=said, start_new_session=True, preexec_fn=limit,
            )  # fmt: skip

    def left(self, quiet: "Place") -> Iterator[str]:
        """What should not be there once all is over: of temporary files, what `quiet` has not."""
        until = time.monotonic() + 60  # orphans end by themselves
        while (there := self._processes()) and time.monotonic() < until:
            time.sleep(0.5)
        yield from (f"still runs: {command}" for command in there)
        usual = set(os.listdir(quiet.temporary))  # torch makes a folder there
        yield from (f"left: {self.temporary / n}" for n in set(os.listdir(self.temporary)) - usual)
        halves = (p for p in self.root.rglob(".*") if re.search(r"\.\w{8}$", p.name))
        yield from (f"left, half written: {path}" for path in halves if path.is_dir())
        for path in self.root.rglob("*.lock"):
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                yield f"still locked: {path}"

    def _processes(self) -> list[str]:
        mine = []
        for process in psutil.process_iter(["environ", "cmdline"]):
            environment = process.info["environ"] or {}
            if environment.get("NBLIB_ROOT") == str(self.root):
                mine.append(" ".join(process.info["cmdline"] or []))
        return mine


def _images(folder: Path) -> Path:
    """Sixty small images of noise, of a folder each for normal and abnormal."""
    pixels = np.random.default_rng(0)
    for part in ("normal", "abnormal"):
        (folder / part).mkdir(parents=True)
        for i in range(60 if part == "normal" else 30):
            values = pixels.integers(0, 200 if part == "normal" else 255, (32, 32), np.uint8)
            Image.fromarray(values).save(folder / part / f"{part}{i}.png")
    return folder


def _differences(one: Path, other: Path) -> Iterator[str]:
    """Tables, arrays and lists of two roots that are there once, or are not the same."""
    files = [{p.relative_to(root) for p in _results(root)} for root in (one, other)]
    yield from (f"there once: {path}" for path in sorted(files[0] ^ files[1]))
    for path in sorted(files[0] & files[1]):
        if _content(one / path) != _content(other / path):
            yield f"not the same: {path}"


def _results(root: Path) -> Iterator[Path]:
    """Not the cache, which is named by times of files, nor drawings, which tell when they were."""
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        is_made = path.suffix in (".csv", ".json", ".npz", ".gz") or "images" in parts
        if path.is_file() and is_made and not any(p[0] == "." or p in APART for p in parts):
            yield path


def _content(file: Path):
    """What a file says, without what is not the same twice."""
    if file.name.endswith((".csv", ".csv.gz")):
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        return table.drop(columns=table.filter(regex=OF_TIME).columns).to_csv()
    if file.suffix == ".json":
        lines = file.read_text().splitlines()
        return [line for line in lines if not re.search(OF_TIME, line.split(":")[0].strip(' "'))]
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    return file.read_bytes()


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    given.add_argument("--kills", type=int, default=100)
    given.add_argument("--few", action="store_true", help="neither the batch nor the report")
    asked = given.parse_args()
    sys.exit(bool(main(asked.kills, asked.few)))
