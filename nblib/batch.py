"""A batch of notebooks by Snakemake, with a line for each finished job and a front page."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
from filelock import FileLock, Timeout
from snakemake import cli
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from nblib import plan
from nblib.files import digest, root
from nblib.front_page import DONE, FAILED, RUNNING, WAITING, FrontPage, number
from nblib.progress import STOPPED, say

SECONDS = {
    "train": 45,
    "trivial_baselines": 15,
    "pretrained_features": 90,
    "scored": 45,
    "ratio": 45,
    "place": 120,
    "perceptual_scores": 60,
}
"""What a job takes at `quick`, beside `OTHERS`: what is left is estimated by these proportions."""

OTHERS = 15


def batch(
    target: str,
    data: str,
    budget: str,
    seeds: str,
    precision: str = "",
    jobs: int | None = None,
    every: bool = False,
) -> int:
    """Run Snakemake on the notebooks, as the only batch of this root; returns its exit status.

    target: all, report (tables and figures again from what there is; trains nothing), ratios,
    places or perceptual (a second score of finished runs; trains nothing); data, seeds: with commas
    between; precision: fp32, bf16 or '' (the device's own); every: see `plan.methods`. Raises
    ValueError for a set, budget or seed that there is not, and where another batch is running.
    Told to stop, by Ctrl-C or SIGTERM, it returns 128 and the signal's number.
    """
    report = target == "report"
    words = [word for word in data.split(",") if word]
    sets = plan.chosen_sets(words, Path.cwd(), report)
    budget, listed = plan.checked_budget(budget), plan.chosen_seeds(seeds)
    jobs = jobs or os.cpu_count()
    asked = ["-s", plan.NOTEBOOKS / "Snakefile", "--nolock", "--logger", "nblib"]
    asked += ["-j", jobs, target]
    asked += ["--forcerun", "results"] * report
    # Last, since it takes all words behind it. A name alone could be read as a number or as YAML.
    asked += ["--config", f"data={json.dumps(words)}", f"budget={budget}", f"seeds={seeds}"]
    asked += [f"precision={precision}"] * bool(precision)
    asked += ["as_it_is=1"] * report + ["all=1"] * every
    lock = root() / "data" / ".batch.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    told = []

    def stop(signum: int, frame) -> None:
        told.append(signum)
        raise KeyboardInterrupt

    try:
        with _heard_by(stop), FileLock(lock, timeout=0), _own_temporary_folder():
            front = FrontPage(plan.pages(sets, budget, listed, every) if target == "all" else [])
            front.write()
            print(f"Everything is on one page: {front.file.as_uri()}", flush=True)
            status = _snakemake([str(word) for word in asked], Watch.of(front, jobs))
            front.write()
            print(f"The page: {front.file.as_uri()}", flush=True)
    except Timeout:
        raise ValueError(f"Another batch is running in {root()}.") from None
    except KeyboardInterrupt:
        status = 128 + told[0]
    if status > 128:
        print(STOPPED, flush=True)
    return status


@contextlib.contextmanager
def _heard_by(stop: Callable) -> Iterator[None]:
    """Until the block ends, Ctrl-C and SIGTERM call `stop`."""
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, of_before in before.items():
            signal.signal(number, of_before)


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """A folder for the temporary files of this process and its jobs, which goes in the end.

    Those that killed batches of the same root left go now; a digest of it is in their names.
    """
    of_all, ours = tempfile.gettempdir(), f"nblib-{digest(os.fsencode(root()))[:6]}-"
    for left in Path(of_all).glob(f"{ours}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=ours, ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            os.environ["TMPDIR"] = tempfile.tempdir = of_all


PATIENCE = 8
"""Seconds that jobs have to end in, once the batch is told to stop, before they are killed."""


def _snakemake(words: list[str], handler: type["Watch"]) -> int:
    """Snakemake's command line in this process, its log handed to a handler of ours.

    Told to stop, by Ctrl-C or SIGTERM, it ends its jobs and returns 128 and the signal's number.
    """
    plugin = SimpleNamespace(LogHandler=handler)
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_nblib", plugin)
    told = []

    def stop(signum: int, frame) -> None:
        told.append(signum)
        handler.stopping = True
        jobs = psutil.Process().children(recursive=True)
        _each(jobs, psutil.Process.terminate)
        late = threading.Timer(PATIENCE, _each, (jobs, psutil.Process.kill))
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    # Snakemake's own way is to wait for all running jobs, which may take hours.
    JobScheduler.exit_gracefully = lambda scheduler, *of_signal: stop(*of_signal)
    try:
        with _heard_by(stop):
            cli.main(words)
        status = 0
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):  # what the Snakefile has to say
            say(status)
            status = 1
    except KeyboardInterrupt:
        if not told:  # by the time that `stop` is heard no longer
            raise
    return 128 + told[0] if told else status


def _each(processes: list[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """Do something to processes, as far as they are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)


ASKED_FOR = ("total", "all", "report", "ratios", "places", "perceptual")
"""What Snakemake counts as jobs, and only names others."""


class Watch(LogHandlerBase):
    """Prints one line a finished job, and keeps the front page up to date.

    Failed notebooks print their last lines themselves; whatever else Snakemake warns of is passed
    on. Made by `of`, since Snakemake makes its handlers itself.
    """

    writes_to_stream, writes_to_file, needs_rulegraph = True, False, False
    has_filter, has_formatter = True, True

    front: FrontPage
    jobs: int
    stopping: bool

    @classmethod
    def of(cls, front: FrontPage, jobs: int) -> type["Watch"]:
        return type("LogHandler", (cls,), {"front": front, "jobs": jobs, "stopping": False})

    def __post_init__(self) -> None:
        self.running: dict[int, tuple[str, str, list[str], float]] = {}
        self.waiting: dict[str, int] = {}
        self.finished, self.total = 0, 0
        self.took, self.expected = 0.0, 0.0

    def emit(self, record) -> None:
        event, given = getattr(record, "event", None), record.__dict__
        warns = record.levelname in ("WARNING", "ERROR", "CRITICAL") or event == LogEvent.ERROR
        if event == LogEvent.RUN_INFO:
            self.waiting = {k: n for k, n in given["stats"].items() if k not in ASKED_FOR}
            self.total = sum(self.waiting.values())
            say(f"{self.total} jobs, {self.jobs} at a time.")
        elif event == LogEvent.JOB_INFO:
            self._began(given)
        elif event == LogEvent.JOB_FINISHED:
            self._ended(given["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self._failed(given["jobid"])
        elif warns and not self.stopping:  # told to stop, it calls every job that ended a failure
            say(str(record.msg))
        elif event is None and "Nothing to be done" in str(record.msg):
            say("Nothing is to be done: all is made.")

    def _began(self, job: dict) -> None:
        about = job["rule_msg"] or job["rule_name"], [str(file) for file in job["output"]]
        self.running[job["jobid"]] = (job["rule_name"], *about, time.monotonic())
        self.waiting[job["rule_name"]] = self.waiting.get(job["rule_name"], 1) - 1
        self._mark(about[1], RUNNING)

    def _ended(self, job: int) -> None:
        rule, what, files, began = self.running.pop(job, ("all", "", [], 0.0))
        if not files:  # what was asked for, which makes none itself
            return
        seconds = time.monotonic() - began
        self.finished += 1
        self.took += seconds
        self.expected += SECONDS.get(rule, OTHERS)
        self.front.left = self.left()
        self._mark(files, DONE)
        made = [Path(file) for file in files if file.endswith("metrics.json")]
        area = number(made[0]) if len(made) == 1 else ""
        words = [f"[{self.finished}/{self.total}] {what}", *[f"AUC {area}"] * bool(area)]
        say(", ".join([*words, f"{seconds:.0f} s"]) + f"; {self.front.left}")

    def _failed(self, job: int) -> None:
        if job in self.running:
            _, what, files, _ = self.running.pop(job)
            if self.stopping:
                return self._mark(files, WAITING)
            self._mark(files, FAILED)
            say(f"FAILED: {what}. What else can be made is made.")

    def left(self) -> str:
        """How long the rest will take, by what it took so far."""
        waiting = sum(SECONDS.get(rule, OTHERS) * n for rule, n in self.waiting.items())
        now = time.monotonic()
        for rule, _, _, began in self.running.values():
            waiting += max(SECONDS.get(rule, OTHERS) - (now - began), 0)
        if not self.expected or not waiting:
            return "almost done"
        minutes = waiting * self.took / self.expected / self.jobs / 60
        return f"about {minutes:.0f} min left" if minutes >= 1.5 else "about a minute left"

    def _mark(self, files: list[str], state: str) -> None:
        """Note the state of the page that makes these files."""
        for page in self.front.states:
            if {str(page.html), *map(str, page.made.values())} & set(files):
                self.front.states[page] = state
        self.front.write()
