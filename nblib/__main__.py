"""python -m nblib COMMAND: everything that is done from a shell. `--help` behind any of them."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from nblib.progress import STOPPED


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, and ends with 2."""

    def error(self, message: str):
        sys.stderr.write(f"{self.prog}: {message}. See {self.prog} --help.\n")
        raise SystemExit(2)


def _path(text: str) -> Path:
    from nblib.files import must_be_path

    try:
        must_be_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
    return Path(text)


def _score(given: argparse.Namespace) -> None:
    from nblib.files import as_text
    from nblib.results import scored
    from nblib.training.scoring import finished_run

    if bool(given.run) == bool(given.set):
        raise ValueError("Name the runs to score with (--run), or a set and take its own (--set).")
    asked = [finished_run(run) for run in given.run or ()]
    asked = asked or scored.of_set(given.set, given.budget)
    table, asked, out = scored.write_scored(given.images, asked, given.out)
    print(scored.summary(table, asked))
    print(f"Written to {as_text(out)}: scores.csv, pictures, and report.html for a browser.")
    print("This is research software, no medical device.")


def _batch(given: argparse.Namespace) -> None:
    # What a batch imports takes seconds.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)
    from nblib.batch import batch

    chosen = given.target, given.data, given.budget, given.seeds, given.precision
    sys.exit(batch(*chosen, given.jobs, given.every))


def _stopped(signum: int, frame) -> None:
    """Ends the process, which has begun nothing: an exception may get lost amid an import."""
    print(STOPPED, flush=True)
    os._exit(128 + signum)


def _execute(given: argparse.Namespace) -> None:
    from nblib import notebooks

    # A time limit ends the process so, which is to end its kernel and tidy up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.getLogger("papermill").setLevel(logging.ERROR)
    parameters = notebooks.typed(given.notebook, given.p)
    notebooks.execute(given.notebook, given.executed, parameters, given.html)


def _draw(given: argparse.Namespace) -> None:
    from nblib.data import datasets

    print(datasets.find(given.set))


def _ratio(given: argparse.Namespace) -> None:
    from nblib.results import robustness

    asked = given.set, given.budget, given.method, given.percent, given.seed, given.precision
    print(robustness.run_ratio(*asked).folder)


def _place(given: argparse.Namespace) -> None:
    from nblib.results import placement

    print(placement.run_place(given.method, given.condition, given.seed).folder)


def _moved(given: argparse.Namespace) -> None:
    from nblib.data import datasets
    from nblib.results import robustness

    print(robustness.score_moved(datasets.load(given.set), given.budget, given.seed))


def _mirrored(given: argparse.Namespace) -> None:
    from nblib.data import datasets
    from nblib.results import robustness

    print(robustness.score_mirrored(datasets.load(given.set), given.budget, given.seed))


def _perceptual(given: argparse.Namespace) -> None:
    from nblib.data import datasets
    from nblib.results import perceptual

    print(perceptual.score_perceptual(datasets.load(given.set), given.budget, given.seed))


def _features(given: argparse.Namespace) -> None:
    from nblib.data import datasets
    from nblib.results import features

    print(features.study(datasets.load(given.set), given.budget))


def _keep(given: argparse.Namespace) -> None:
    from nblib.results import placement, store

    for data in given.sets.split(","):
        print(*store.keep(data, given.budget), sep="\n")
    if placement.SET in given.sets.split(","):
        placement.keep_twins()


def _links(given: argparse.Namespace) -> None:
    from nblib import notebooks

    for file in dict.fromkeys(notebooks.write_links() + notebooks.write_index()):
        print(f"{file.name}: written")


def _readme(given: argparse.Namespace) -> None:
    from nblib.results.readme import fill

    print(f"{fill()}: written")


def commands() -> Parser:
    """The parser of all commands."""
    parser = Parser("python -m nblib", description=__doc__.split(": ", 1)[1])
    of = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(do: Callable, says: str, example: str) -> Callable:
        name = do.__name__.lstrip("_")
        epilog = f"example: {parser.prog} {name} {example}"
        one = of.add_parser(name, help=says, description=f"{says}.", epilog=epilog)
        one.set_defaults(do=do)
        return one.add_argument

    argument = command(
        _score,
        "score a folder of images, or one image: a table, pictures, a page to judge them",
        "images --set my_set",
    )
    argument("images", type=_path, help="pictures or DICOM files")
    argument("--set", help="a set: by the methods to begin with, trained on it where they are not")
    argument("--budget", default="laptop", help="of --set; default: laptop")
    run = "folders of finished runs of one set, the one to trust first"
    argument("--run", nargs="+", type=_path, help=run)
    argument("--out", type=_path, help="a folder; default: data/scored/<images>-by-<set>")

    argument = command(
        _batch,
        "run all notebooks over some sets and seeds; what is finished is not done again",
        "all --data phantom,some/folder --budget quick --seeds 0,1,2",
    )
    targets = "all", "report", "ratios", "places", "perceptual"
    argument("target", choices=targets, help="see the Makefile")
    argument("--data", default="phantom", help="names or folders, with commas between")
    argument("--budget", default="quick", help="smoke, quick, laptop or thesis")
    argument("--seeds", default="0", help="whole numbers, with commas between")
    precision = dict(choices=("", "fp32", "bf16"), default="", help="default: the device's own")
    argument("--precision", **precision)
    argument("--jobs", type=int, help="how many at a time; default: one a core")
    argument("--every", action="store_true", help="quick: every method, controls as well")

    argument = command(
        _execute,
        "run one notebook with parameters, and keep the executed copy",
        "notebooks/22_sagan.ipynb out.ipynb -p budget smoke --html out.html",
    )
    argument("notebook", type=_path)
    argument("executed", type=_path, help="where to write the copy with outputs")
    argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    argument("--html", type=_path, help="where to write it as a page")

    argument = command(_draw, "draw a set, where it is not drawn as yet", "phantom")
    argument("set", help="one that the project draws, such as phantom")

    argument = command(
        _ratio,
        "train with an unlabeled mix of which so many percent are abnormal",
        "phantom quick sagan 40 0",
    )
    for name, kind in (("set", str), ("budget", str), ("method", str), ("percent", int)):
        argument(name, type=kind)
    argument("seed", type=int)
    argument("--precision", **precision)

    argument = command(_place, "train where nothing but place decides", "sagan_whole circular 0")
    argument("method")
    argument("condition", choices=("zeros", "reflect", "circular", "middle", "outer"))
    argument("seed", type=int)

    passes = {
        _moved: "score moved test images by finished runs",
        _mirrored: "score normal test images and their mirror images by finished runs",
        _perceptual: "score test images that finished runs restored by a network's features",
    }
    for do, says in passes.items():
        argument = command(do, says, "phantom quick 0")
        for name, kind in (("set", str), ("budget", str), ("seed", int)):
            argument(name, type=kind)

    argument = command(_features, "say what scores on features rest on", "phantom quick")
    argument("set")
    argument("budget")

    argument = command(
        _keep, "copy what tables need of finished runs to data/scores", "nih,kermany laptop"
    )
    argument("sets", help="names, with commas between")
    argument("budget")

    command(_links, "write the links between notebooks, and their table in 00_start_here", "")
    command(_readme, "put the written tables and verdicts into README.md", "")
    return parser


def main() -> None:
    try:
        given = commands().parse_args()
        given.do(given)
    except KeyboardInterrupt:  # Ctrl-C, also of a batch whose job this is: it says all there is
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        from nblib.files import RunError  # which takes a second

        if not isinstance(error, (OSError, ValueError, RunError)):
            raise
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
