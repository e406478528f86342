"""The batch: what is planned, what survives a kill, what reaches Slurm.

Batches run a copy of the package and of the Snakefile, with notebooks that only make a run, in
roots of their own.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from nblib import plan
from nblib.data import phantom
from nblib.results import robustness
from nblib.training import runs

PROJECT = Path(__file__).parent.parent
NOTEBOOK = """from nblib.data import datasets; from nblib.training import runs
from nblib.methods.catalogue import by_notebook
assert seed != 99, "made to fail"
[runs.run(method, datasets.load(data), budget, seed) for method in {methods}]"""
# A run of the budget `smoke` is over before it can be killed: the copy's `quick` is as small, but
# has so many steps that it writes ten checkpoints in some seconds.
SLOW = 'BUDGETS["quick"] = {"translation": BUDGETS["smoke"]["translation"] | dict(steps=60)}\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the package and the Snakefile, with small notebooks."""
    copy = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "*.ipynb")
    for name in ("nblib", "notebooks"):
        shutil.copytree(PROJECT / name, copy / name, ignore=ignored)
    with open(copy / "nblib" / "training" / "budgets.py", "a") as file:
        file.write(SLOW)
    for name in ("22_sagan", "02_trivial_baselines"):
        write_notebook(copy / "notebooks" / f"{name}.ipynb", f"by_notebook()[{name!r}]")
    return copy


def write_notebook(file, methods):
    parameters = 'data = "phantom"\nbudget = "quick"\nseed = 0\n'
    nb = new_notebook()
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb.cells = [
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(NOTEBOOK.format(methods=methods)),
    ]
    nbformat.write(nb, file)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, set_writer):
    """A set of random pictures."""
    folder = tmp_path_factory.mktemp("sets") / "tiny"
    lists = ("train/0", "train/unlabeled/0", "train/unlabeled/1", "test/0", "test/1")
    return set_writer(folder, dict.fromkeys(lists, 24), size=64)


@pytest.fixture
def mark():
    """A mark in the environment of all that a test starts; what still runs is ended behind it.

    It is also their folder of temporary files, which killed processes cannot clean up.
    """
    mark = tempfile.mkdtemp()
    yield mark
    for process in marked(mark):
        process.kill()
    shutil.rmtree(mark)


def marked(mark, *words):
    """The processes that carry `mark` and whose command line contains all of `words`."""
    found = []
    for process in psutil.process_iter():
        try:
            carries = process.environ().get("NBLIB_TEST_MARK") == mark
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if carries and process.status() != psutil.STATUS_ZOMBIE and all(w in line for w in words):
            found.append(process)
    return found


def command(project, *targets, data="phantom", budget="smoke", seeds="0", **more):
    """What the Makefile calls; config comes last, since it takes all words behind it."""
    snakefile = project / "notebooks" / "Snakefile"
    start = [sys.executable, "-m", "snakemake", "-s", snakefile, "--nolock", "-j", "2"]
    config = dict(data=data, budget=budget, seeds=seeds) | more
    return [*start, *targets, "--config", *(f"{name}={value}" for name, value in config.items())]


def environment(project, root, mark="", **more):
    own = {"PYTHONPATH": str(project), "NBLIB_ROOT": str(root), "NBLIB_TEST_MARK": mark}
    own["TMPDIR"] = mark or tempfile.gettempdir()
    return {k: v for k, v in os.environ.items() if k != "NBLIB_SETS"} | own | more


def batch(project, root, *targets, mark="", **config):
    """Run a batch to its end; returns its exit code and all that it printed."""
    done = subprocess.run(
        command(project, *targets, **config),
        cwd=root.parent,
        env=environment(project, root, mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def nblib_batch(project, root, *words):
    """`python -m nblib batch all`; returns its exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "nblib", "batch", "all", *words],
        cwd=root.parent,
        env=environment(project, root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def start(project, root, output, mark, *targets, **config):
    """Start a batch in a session of its own and return its process."""
    with open(output, "w") as file:
        return subprocess.Popen(
            command(project, *targets, **config),
            cwd=root.parent,
            env=environment(project, root, mark),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(condition, process, output):
    """Wait until `condition()`, for as long as `process` runs."""
    while not condition():
        assert process.poll() is None, output.read_text()
        time.sleep(0.05)


def folder(root, method, budget, seed=0):
    return root / "data" / "runs" / "tiny" / budget / method / "base" / f"seed{seed}"


def metrics(root, method, budget, seed=0):
    return folder(root, method, budget, seed) / "metrics.json"


def planned(output, behind=""):
    """The runs that a dry run plans: methods, and notebooks that make theirs in one go."""
    return set(re.findall(rf"Job \d+: (\w+) on \w+, {behind}", output))


def same_numbers(one, other):
    return all(
        (one / name).read_bytes() == (other / name).read_bytes()
        for name in ("history.csv", "scores.csv")
    )


@pytest.fixture(scope="module")
def finished(project, tiny, tmp_path_factory):
    """The root of a batch that nobody disturbed, some of its targets, and what it said.

    By the command of the Makefile, of the copy, which has two notebooks.
    """
    root = tmp_path_factory.mktemp("finished") / "root"
    code, output = nblib_batch(project, root, "--data", tiny, "--budget", "quick", "--jobs", "2")
    assert code == 0, output
    targets = [metrics(root, method, "quick") for method in ("sagan", "mean_image")]
    return root, targets, output


def test_a_batch_plans_every_run_page_and_table(tmp_path, tiny):
    """On the committed notebooks: two sets, two seeds."""
    code, output = batch(PROJECT, tmp_path / "root", "-n", data=f"phantom,{tiny}", seeds="0,1")
    assert code == 0, output
    counts = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert counts["draw"] == "1"
    pages = re.findall(r"Job \d+: (5\d_\w+|60_explore) on tiny", output)
    assert len(pages) == len(set(pages)) == 7 and counts["results"] == "14"
    assert counts["scored"] == "8" and counts["features"] == "2"  # two sets, two seeds, two ways
    assert counts["page"] == str(
        2 * len(re.findall(r"Job \d+: (?:0[014]|37|61)_\w+ on tiny", output))
    )
    made = re.findall(r"Job \d+: (\w+) on (\w+), smoke, seed (\d)", output)
    assert len(made) == len(set(made)) == len(planned(output, "smoke, seed")) * 4
    assert planned(output, "smoke, seed") == {*plan.NETWORKS, *plan.IN_ONE_GO}
    assert not list((tmp_path / "root").rglob("*.json")), "a dry run writes nothing"


def test_a_report_needs_neither_images_nor_training(tmp_path, tiny):
    root = tmp_path / "root"
    (root / "data" / "scores" / "kept").mkdir(parents=True)
    config = dict(data=f"kept,{tiny}", as_it_is=1)
    code, output = batch(PROJECT, root, "-n", "report", **config)
    assert code == 0, output
    jobs = set(re.findall(r"Job \d+: (\w+) on (\w+), smoke", output))
    from_scores = {"50_results", "52_verdict", "53_cost", "55_robustness"}
    # The page about the set places is the same for all sets, and made once.
    once = {"37_where_place_decides"}
    assert {page for page, data in jobs if data == "kept"} == from_scores | once
    # Maps are there once a run is.
    assert {page for page, data in jobs if data == "tiny"} == from_scores | {"54_datasets"}
    file = metrics(root, "sagan", "smoke")
    file.parent.mkdir(parents=True)
    file.touch()
    _, output = batch(PROJECT, root, "-n", "report", **config)
    assert "51_qualitative on tiny" in output and "51_qualitative on kept" not in output


def test_the_ratios_are_a_target_of_their_own(tmp_path, tiny):
    code, output = batch(PROJECT, tmp_path / "root", "-n", "ratios", data=tiny)
    assert code == 0, output
    made = re.findall(r"Job \d+: (\w+) on tiny with (\d+) % abnormal in the mix", output)
    assert len(made) == len(set(made)) == len(robustness.RATIO_METHODS) * 6
    assert {percent for _, percent in made} == {"0", "20", "40", "60", "80", "100"}


def test_the_perceptual_scores_are_a_target_of_their_own_and_train_nothing(
    project, tiny, finished, tmp_path
):
    root, targets, _ = finished
    batch_of = dict(data=tiny, budget="quick")
    code, output = batch(project, root, "perceptual", **batch_of)
    assert code == 0, output
    file = root / "data" / "runs" / "tiny" / "quick" / "perceptual-seed0.csv"
    methods = set(pd.read_csv(file)["method"])
    assert methods == {"sagan", "mean_image", "pca16", "pca64", "nearest_normals"}
    assert "Nothing to be done" in batch(project, root, "perceptual", "-n", **batch_of)[1]
    # A method that has changed is not trained again for them; a run that is new is scored.
    own = project / "nblib" / "methods" / "sagan.py"
    text = own.read_text()
    own.write_text(text + "\n\nCHANGED = 1\n")
    _, output = batch(project, root, "perceptual", "-n", **batch_of)
    own.write_text(text)
    assert "Nothing to be done" in output
    new = root / "data" / "runs" / "tiny" / "quick" / "alad" / "base" / "seed0"
    shutil.copytree(targets[1].parent, new)
    _, output = batch(project, root, "perceptual", "-n", **batch_of)
    shutil.rmtree(new.parents[1])
    jobs = re.findall(r"Job \d+: (.*)", output)
    assert jobs == ["perceptual scores of tiny, quick, seed 0", "the perceptual scores are made"]
    # Where there is no run, that is said.
    code, output = batch(project, tmp_path / "root", "perceptual", "--retries", "0", **batch_of)
    assert code == 1 and "There is no finished run that restored the images of 'tiny'" in output


def test_every_committed_notebook_is_in_the_batch():
    listed = {*plan.RUNS, *plan.PAGES, *plan.REPORTS, *plan.WITH_IMAGES, *plan.WITH_MAPS}
    assert listed == {file.stem for file in (PROJECT / "notebooks").glob("[0-9]*.ipynb")}


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({"budget": "fast"}, "There is no budget 'fast'. There are: smoke, "),
        ({"data": "sets/none"}, "There is no set '{here}/sets/none': looked for {here}/sets/none."),
    ],
)
def test_a_misspelt_set_or_budget_stops_with_one_sentence(project, tmp_path, config, sentence):
    code, output = batch(project, tmp_path / "root", **config)
    assert code == 1
    assert output.splitlines()[-1].startswith(sentence.format(here=tmp_path))
    assert "Traceback" not in output


def test_runs_executed_copies_and_pages_are_where_they_belong(finished):
    root, targets, _ = finished
    for target in targets:
        assert runs.Run(target.parent).metrics["steps"] == (60 if "sagan" in str(target) else 0)
    executed = root / "data" / "executed" / "tiny" / "quick"
    html = root / "figures" / "html" / "tiny" / "quick"
    for name in ("22_sagan-seed0", "02_trivial_baselines-seed0"):
        assert nbformat.read(executed / f"{name}.ipynb", 4).metadata.papermill.exception is None
        assert "</html>" in (html / f"{name}.html").read_text()
    assert not (root.parent / ".snakemake" / "metadata").exists(), "records lie in the root"


def test_it_says_a_line_a_job_and_where_the_page_is_and_nothing_else(finished):
    root, _, output = finished
    address = (root / "figures" / "html" / "index.html").as_uri()
    first, profile, jobs, *lines, last = output.splitlines()
    assert first == f"Everything is on one page: {address}" and last == f"The page: {address}"
    assert "profile" in profile and jobs == "2 jobs, 2 at a time."
    assert len(lines) == 2, output
    trivial, sagan = lines
    assert re.fullmatch(
        r"\[1/2\] 02_trivial_baselines on tiny, quick, seed 0, \d+ s; .* left", trivial
    )
    area = runs.Run(folder(root, "sagan", "quick")).metrics["auc"]
    words = rf"\[2/2\] sagan on tiny, quick, seed 0, AUC {area:.3f} \[.*\], \d+ s; almost done"
    assert re.fullmatch(words, sagan)
    page = (root / "figures" / "html" / "index.html").read_text()
    assert "2 of 2 pages" in page and f"{area:.3f} [" in page
    shown = (root / "figures" / "html" / "tiny" / "quick" / "22_sagan-seed0.html").read_text()
    assert 'href="../../index.html"' in shown


def test_a_finished_batch_has_nothing_to_do_even_after_a_touch(project, tiny, finished):
    root, targets, _ = finished
    for file in project.rglob("*.py"):
        file.touch()
    code, output = batch(project, root, *targets, "-n", data=tiny, budget="quick")
    assert code == 0
    assert "Nothing to be done" in output
    # A seed more plans the runs of that seed only.
    more = [metrics(root, "sagan", "quick", seed) for seed in (0, 1)]
    code, output = batch(project, root, *more, "-n", data=tiny, budget="quick", seeds="0,1")
    beside = ["02_trivial_baselines on tiny, quick, seed 1", "sagan on tiny, quick, seed 1"]
    assert sorted(re.findall(r"Job \d+: (.*)", output)) == beside


def test_an_edit_of_one_method_makes_its_runs_again_and_no_others(project, tiny, finished):
    root, targets, _ = finished
    own, other = project / "nblib/methods/trivial.py", project / "nblib/methods/sagan.py"
    texts = own.read_text(), other.read_text()
    other.write_text(texts[1] + "\n\nCHANGED = 1\n")
    _, output = batch(project, root, *targets, "-n", data=tiny, budget="quick")
    other.write_text(texts[1])
    assert planned(output) == {"sagan"}

    own.write_text(texts[0] + "\n\nCHANGED = 1\n")
    before = runs.Run(targets[0].parent).config["code"]
    old = runs.Run(targets[1].parent).config["code"]
    code, output = batch(project, root, *targets, data=tiny, budget="quick")
    own.write_text(texts[0])
    assert code == 0, output
    assert planned(output) == {"02_trivial_baselines", "sagan"}
    # The page that shows the reference beside is made again, but nothing that has not changed.
    assert runs.Run(targets[0].parent).config["code"] == before
    assert runs.Run(targets[1].parent).config["code"] != old
    assert runs.Run(targets[1].parent).metrics


def test_an_edit_of_what_all_share_reaches_runs_behind_other_runs(project, tiny, finished):
    """Snakemake does not look at the inputs of a job that waits, as for `ancient` files, for one
    that has to run: such a run would stay as it was."""
    root, targets, _ = finished
    shared = project / "nblib/data/batches.py"
    text = shared.read_text()
    shared.write_text(text + "\n\nCHANGED = 1\n")
    _, output = batch(project, root, *targets, "-n", data=tiny, budget="quick")
    shared.write_text(text)
    assert planned(output) >= {"02_trivial_baselines", "sagan"}


def test_a_failed_notebook_is_shown_and_its_copy_kept(project, tiny, tmp_path):
    root = tmp_path / "root"
    target = metrics(root, "pca16", "smoke", 99)
    code, output = batch(project, root, target, "--retries", "0", data=tiny, seeds="99")
    assert code == 1
    copy = root / "data/executed/tiny/smoke/02_trivial_baselines-seed99.ipynb"
    head = "02_trivial_baselines.ipynb failed in its code cell 3: from nblib.data import datasets"
    assert head in output
    assert f"AssertionError: made to fail\nExecuted copy: {copy}\n" in output
    assert nbformat.read(copy, 4).cells[-1].outputs[-1].ename == "AssertionError"


def test_drawing_the_phantom_again_leaves_what_is_there(project, tmp_path, monkeypatch):
    """Snakemake deletes the outputs of a job before it runs it again."""
    root = tmp_path / "root"
    small = dict(size=32, known_normal=4, unlabeled=(2, 2), test=(2, 2))
    there = phantom.write_phantom(root / "data" / "sets" / "phantom", **small) / "data.json"
    stamp = there.parent.parent / f".phantom.drawn{phantom.DRAWING}"
    stamp.touch()
    before = there.stat()
    code, output = batch(project, root, stamp, "--forcerun", "draw")
    assert code == 0, output
    assert "1 of 1 steps (100%) done" in output
    assert (there.stat().st_ino, there.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_killed_batch_resumes_to_the_numbers_of_an_undisturbed_one(
    project, tiny, finished, tmp_path, mark
):
    root, output = tmp_path / "root", tmp_path / "output"
    here, target = folder(root, "sagan", "quick"), metrics(root, "sagan", "quick")
    process = start(project, root, output, mark, target, data=tiny, budget="quick")
    wait_for((here / "checkpoint.pt").exists, process, output)
    # All at once, kernels in sessions of their own too, as when a machine goes down.
    killed = marked(mark)
    for victim in killed:
        victim.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(killed)
    assert marked(mark) == []
    assert len(killed) >= 3, "Snakemake, papermill and a kernel"

    left = {file.name for file in here.iterdir() if not file.name.startswith(".")}
    assert left == {"config.json", "checkpoint.pt", "watched.csv", "SHA256SUMS"}, (
        "killed while training"
    )
    assert runs.Run(here).config["method"] == "sagan"
    saved = torch.load(here / "checkpoint.pt", weights_only=True)
    assert 0 < saved["step"] < 60
    for file in root.rglob("*.ipynb"):
        nbformat.read(file, 4)

    code, output = batch(project, root, target, data=tiny, budget="quick")
    assert code == 0, output
    whole, history = finished[0], runs.Run(here).history
    assert list(history["step"]) == sorted(set(history["step"]))
    assert history["step"].iloc[-1] == 60
    assert same_numbers(here, folder(whole, "sagan", "quick"))
    assert not list(here.parent.glob("*.aside*")), "it went on, and did not start anew"


def test_a_second_batch_waits_for_the_orphans_of_a_killed_one(
    project, tiny, finished, tmp_path, mark
):
    """Killing Snakemake alone leaves papermill and its kernel alive, and writing."""
    root, output, again = tmp_path / "root", tmp_path / "output", tmp_path / "again"
    here, target = folder(root, "sagan", "quick"), metrics(root, "sagan", "quick")
    process = start(project, root, output, mark, target, data=tiny, budget="quick")
    wait_for((here / "checkpoint.pt").exists, process, output)
    process.kill()
    process.wait()
    orphans = marked(mark)
    assert any("ipykernel" in " ".join(orphan.cmdline()) for orphan in orphans)
    # They are held until the second batch has come to the same run.
    for orphan in orphans:
        orphan.suspend()
    second = start(project, root, again, mark, target, data=tiny, budget="quick")
    wait_for(lambda: "another process is writing" in again.read_text(), second, again)
    for orphan in orphans:
        orphan.resume()
    assert second.wait(timeout=120) == 0, again.read_text()
    psutil.wait_procs(orphans, timeout=60)
    assert not any(orphan.is_running() for orphan in orphans)
    assert runs.Run(here).metrics
    assert same_numbers(here, folder(finished[0], "sagan", "quick"))
    nbformat.read(root / "data/executed/tiny/quick/22_sagan-seed0.ipynb", 4)


# What the executor plugin calls. sbatch answers a number and runs its --wrap in the background;
# sacct lists "number|state"; srun runs what comes behind its options.
STUBS = {
    "sbatch": """#!/bin/sh
cd "{jobs}"
id=$(($(ls *.call 2>/dev/null | wc -l) + 100))
printf '%s\\n' "$@" > $id.call
for word; do
    case "$word" in --wrap=*) wrapped="${{word#--wrap=}}";; esac
done
echo RUNNING > $id.state
(
    export SLURM_JOB_ID=$id
    if sh -c "$wrapped"; then echo COMPLETED > $id.state; else echo FAILED > $id.state; fi
) > $id.log 2>&1 < /dev/null &
echo $id
""",
    "srun": """#!/bin/sh
while case "$1" in -*) true;; *) false;; esac; do shift; done
exec "$@"
""",
    "sacct": """#!/bin/sh
cd "{jobs}"
for file in *.state; do echo "${{file%.state}}|$(cat $file)"; done
""",
    "squeue": "#!/bin/sh\n",
    "scancel": "#!/bin/sh\n",
    "sinfo": "#!/bin/sh\n",
    "scontrol": "#!/bin/sh\n",
    "sacctmgr": "#!/bin/sh\necho lab\n",
}


def test_the_slurm_profile_takes_a_run_to_a_gpu_and_back(project, tiny, tmp_path, mark):
    """Through stand-ins of Slurm's commands: no cluster is at hand."""
    jobs, commands, root = tmp_path / "jobs", tmp_path / "commands", tmp_path / "root"
    jobs.mkdir()
    commands.mkdir()
    for name, text in STUBS.items():
        file = commands / name
        file.write_text(text.format(jobs=jobs))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    target = metrics(root, "sagan", "smoke")
    profile = project / "notebooks" / "profiles" / "slurm"
    options = ["--workflow-profile", profile, "--slurm-init-seconds-before-status-checks", "2"]
    options += ["--default-resources", "slurm_account=lab", "slurm_partition=long"]
    options += ["runtime=30", "mem_mb=4000", "cpus_per_task=1"]
    done = subprocess.run(
        command(project, target, *options, data=tiny),
        cwd=tmp_path,
        env=environment(project, root, mark, PATH=f"{commands}{os.pathsep}{os.environ['PATH']}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    logs = "".join(file.read_text() for file in jobs.glob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    assert runs.Run(target.parent).metrics["steps"] == 8
    # The reference that its notebook shows beside it needs no GPU.
    calls = [call.read_text() for call in jobs.glob("*.call")]
    (call,) = [call for call in calls if "--gpus" in call]
    assert len(calls) == 2
    words = call.splitlines()
    for option, value in {"-A": "lab", "-p": "long", "-t": "1440", "--mem": "16000"}.items():
        assert words[words.index(option) + 1] == value
    assert "--cpus-per-task=1" in words
    assert "--gpus=1" in call
