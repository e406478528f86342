"""Medical anomaly detection with generative adversarial networks, for notebooks.

Six rooms, in the order of the data's way; a room imports those above it in this list alone:

    data        dicom, images, folders, archives, downloads, new_set: any file -> a set in the one
                layout; phantom, places, drawn, drawn_sets: the sets that are drawn;
                datasets: a set -> Dataset; split, labels: what is known, behind the wall;
                batches: what training sees; shortcuts
    methods     method: the contract; layers, encodings, losses; a file a method;
                catalogue: all of them, an entry each
    training    budgets; loop: the only one; runs: one run; folder: its files, checked;
                scoring: a finished run and any images -> score, percentile, decision
    figures     style, of_a_run, of_results, diagrams: arrays and data frames -> Figure
    results     store: finished runs, kept scores -> Result; tables: -> data frames;
                write: -> .csv .md .tex; questions, differences, verdicts: the tests; one_run,
                choose, probes, robustness, perceptual, pooled, answer, costs, readme; scored,
                report: images of one's own -> table, pictures, a page
    widgets     found: what lies on the disk; selection: what is looked at; views of it; explorer:
                all of them; watch: a training; panels: what views are built of

Beside them: files (where things are, written whole), metrics (scores, labels -> numbers), progress,
notebooks (papermill, links), pages (executed copies as HTML); plan, batch, front_page: what a batch
makes, Snakemake, the page that shows it; `python -m nblib` is the one command line.
"""

import os
import sys


def _one_thread() -> None:
    """A process computes with one thread, in a notebook as in a batch.

    Networks of this size gain little from a second one, and beside other work threads wait for each
    other: a step then took 13.9 s instead of 1.8. OMP_NUM_THREADS, where it is set, says otherwise.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    from threadpoolctl import threadpool_limits

    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    threadpool_limits(1)  # of what is loaded, and has read them
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


_one_thread()

__version__ = "0.1.0"
