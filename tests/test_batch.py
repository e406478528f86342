"""The batch's own log: a line a finished job, minutes left, states on the front page."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
from snakemake.cli import parse_config
from snakemake_interface_logger_plugins.common import LogEvent

from nblib import batch, plan
from nblib.front_page import DONE, FAILED, RUNNING, WAITING, FrontPage


@pytest.fixture
def watch(project_root, monkeypatch):
    """A watch of two runs and a page, on a clock that is moved by hand."""
    front = FrontPage(plan.pages(["a"], "quick", ["0"]))
    made = batch.Watch.of(front, 2)(None, None)
    made.clock = 100.0
    monkeypatch.setattr(batch.time, "monotonic", lambda: made.clock)
    return made


def tell(watch, event=None, level=logging.INFO, message="", **given):
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    record.__dict__ |= given | ({"event": event} if event else {})
    watch.handle(record)


def begin(watch, number, rule, message, *files):
    about = dict(rule_msg=message, rule_name=rule, output=[str(file) for file in files])
    tell(watch, LogEvent.JOB_INFO, jobid=number, **about)


def test_a_job_is_one_line_with_its_auc_and_the_minutes_left(watch, capsys):
    page = plan.page_of("sagan", "a", "quick", "0")
    (file,) = page.made.values()
    tell(watch, LogEvent.RUN_INFO, stats={"train": 3, "page": 3, "report": 1, "total": 7})
    begin(watch, 1, "train", "sagan on a, quick, seed 0", file)
    assert watch.front.states[page] == RUNNING and '"state running"' in watch.front.file.read_text()
    file.parent.mkdir(parents=True)
    file.write_text('{"auc": 0.75, "auc_interval": [0.7, 0.8]}')
    page.html.parent.mkdir(parents=True, exist_ok=True)
    page.html.write_text("")
    watch.clock += 2 * batch.SECONDS["train"]
    tell(watch, LogEvent.JOB_FINISHED, job_id=1)
    assert watch.front.states[page] == DONE
    # Twice as slow as expected: two trainings and three pages, two at a time.
    left = 2 * (2 * batch.SECONDS["train"] + 3 * batch.OTHERS) / 2 / 60
    assert capsys.readouterr().err.splitlines() == [
        "6 jobs, 2 at a time.",
        "[1/6] sagan on a, quick, seed 0, AUC 0.750 [0.700, 0.800], 90 s; "
        f"about {left:.0f} min left",
    ]
    assert f"about {left:.0f} min left" in watch.front.file.read_text()


def test_a_failed_job_is_named_and_may_be_tried_again(watch, capsys):
    page = next(page for page in watch.front.states if page.notebook == "50_results")
    tell(watch, LogEvent.RUN_INFO, stats={"results": 1, "total": 1})
    begin(watch, 4, "results", "50_results on a, quick", page.html)
    tell(watch, LogEvent.JOB_ERROR, level=logging.ERROR, jobid=4)
    assert watch.front.states[page] == FAILED
    begin(watch, 4, "results", "50_results on a, quick", page.html)
    assert watch.front.states[page] == RUNNING
    assert "FAILED: 50_results on a, quick" in capsys.readouterr().err


def test_what_snakemake_warns_of_is_passed_on_and_its_blocks_are_not(watch, capsys):
    tell(watch, message="Select jobs to execute...")
    tell(watch, LogEvent.SHELLCMD, shellcmd="python -m nblib", message="python -m nblib")
    assert capsys.readouterr().err == ""
    tell(watch, level=logging.ERROR, message="No space left on device")
    tell(watch, LogEvent.ERROR, level=logging.ERROR, message="MissingInputException", exception="x")
    tell(watch, message="Nothing to be done (all requested files are present and up to date).")
    said = capsys.readouterr().err.splitlines()
    assert said == ["No space left on device", "MissingInputException", *said[2:]]
    assert said[2:] == ["Nothing is to be done: all is made."]
    assert set(watch.front.states.values()) == {WAITING}


def test_told_to_stop_it_calls_no_job_a_failure(watch, capsys):
    page = next(page for page in watch.front.states if page.notebook == "50_results")
    tell(watch, LogEvent.RUN_INFO, stats={"results": 1, "total": 1})
    begin(watch, 4, "results", "50_results on a, quick", page.html)
    type(watch).stopping = True
    tell(watch, level=logging.ERROR, message="Command died with SIGTERM")
    tell(watch, LogEvent.JOB_ERROR, level=logging.ERROR, jobid=4)
    assert watch.front.states[page] == WAITING
    assert capsys.readouterr().err.splitlines() == ["1 jobs, 2 at a time."]


@pytest.mark.parametrize("word", ["007", "1e3", "true", "a #b", "a: 1", '"x"', "it's", "[a]"])
def test_sets_reach_snakemake_by_the_names_they_were_given(
    word, project_root, set_writer, monkeypatch
):
    made = dict.fromkeys(("train/0", "train/unlabeled/0", "test/0", "test/1"), 2)
    for name in (word, "other"):
        set_writer(project_root / "data" / "sets" / name, made)
    given = []
    monkeypatch.setattr(batch, "_snakemake", lambda words, handler: given.extend(words) or 0)
    assert batch.batch("report", f"{word},other", "smoke", "0") == 0
    config = parse_config(given[given.index("--config") + 1 :])
    assert config["data"] == [word, "other"]


def test_what_the_snakefile_has_to_say_is_said(project_root, watch, capsys, monkeypatch):
    monkeypatch.setattr("snakemake.cli.main", lambda words: sys.exit("There is no set 'x'."))
    assert batch._snakemake([], type(watch)) == 1
    assert capsys.readouterr().err == "There is no set 'x'.\n"


def test_temporary_files_of_a_batch_go_with_it_and_what_a_killed_one_left_goes_first(
    project_root, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "nblib-another").mkdir()
    show = f"import os; print(os.path.relpath(tempfile.mkdtemp(prefix='x'), {str(tmp_path)!r}))"

    def kept():
        """Where a process puts temporary files, inside the batch's folder."""
        python = [sys.executable, "-c", f"import tempfile; {show}"]
        return subprocess.run(python, capture_output=True, text=True, check=True).stdout.strip()

    killed = batch._own_temporary_folder()  # never left: as if it were killed
    killed.__enter__()
    left = kept()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert (tmp_path / left).is_dir()
    with batch._own_temporary_folder():
        assert not (tmp_path / left).exists()
        found = kept()
        assert found.count("/") == 1 and found.startswith(left[: left.rindex("-") + 1])
    assert os.listdir(tmp_path) == ["nblib-another"]
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path)


def listening(process):
    """The addresses that a process listens on."""
    with contextlib.suppress(psutil.Error):
        sockets = process.net_connections("inet")
        return [s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN]
    return []


@pytest.fixture
def start(project_root, tmp_path):
    """Start a batch of the smallest budget, in a group of its own, which ends with the test.

    start() -> the process; it says what it says in the test's folder, in `said`.
    """
    started = []

    def start():
        words = ["-m", "nblib", "batch", "all", "--budget", "smoke", "--jobs", "2"]
        # A shell's background jobs are deaf to SIGINT, and hand that down.
        hears = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        with open(tmp_path / "said", "w") as said:
            process = subprocess.Popen(
                [sys.executable, *words], env=environment, stdout=said, stderr=said,
                preexec_fn=hears, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["process", "group"])
def test_a_batch_that_is_told_to_stop_stops_at_once_and_leaves_nothing_running(
    number, to, start, tmp_path
):
    """Whatever runs at that moment; by `kill`, or as Ctrl-C in a terminal, which all jobs hear."""
    process = start()
    of_batch = psutil.Process(process.pid)
    listens = []  # once a kernel runs
    while not listens and process.poll() is None:
        jobs = of_batch.children(recursive=True)
        listens = [at for job in jobs for at in listening(job)]
        time.sleep(0.05)
    to(process.pid, number)
    assert set(listens) == {"127.0.0.1"}
    assert process.wait(60) == 128 + number, (tmp_path / "said").read_text()
    _, left = psutil.wait_procs(jobs, timeout=30)
    assert [of.cmdline() for of in left] == []
    text = (tmp_path / "said").read_text()
    assert "the same command goes on" in text and "FAILED" not in text
    assert "Error" not in text and "Traceback" not in text and "Interrupt" not in text


def has_loaded(library):
    """Whether a process has loaded a library, by which one sees how far its imports are."""
    return lambda process, said, root: any(
        library in place.path for place in psutil.Process(process.pid).memory_maps()
    )


MOMENTS = {
    "imports": has_loaded("_multiarray_umath"),
    "late imports": has_loaded("libtorch_cpu"),
    "plans": lambda process, said, root: (root / "data" / ".batch.lock").exists(),
    "reads the Snakefile": lambda process, said, root: "Everything is on" in said.read_text(),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_says_the_same_before_anything_runs(number, moment, start, tmp_path, project_root):
    process = start()
    while process.poll() is None and not moment(process, tmp_path / "said", project_root):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    *before, last = (tmp_path / "said").read_text().splitlines()
    assert last == "Stopped. Nothing is lost: the same command goes on from here."
    pages = ("Everything is on one page: ", "The page: ", "Using workflow specific profile ")
    assert all(line.startswith(pages) for line in before)
    assert [name for name in os.listdir(tmp_path) if name.startswith("nblib-")] == []
