"""python -m nblib score FOLDER --run RUN [--out FILE]: score images by a finished run."""

import argparse
import sys
from pathlib import Path

from nblib.training import scoring


def main() -> None:
    parser = argparse.ArgumentParser("python -m nblib", description=__doc__.split(": ")[1])
    score = parser.add_subparsers(dest="command", required=True).add_parser(
        "score", help="a folder of images, at any depth, or one image"
    )
    score.add_argument("images", metavar="FOLDER", type=Path, help="pictures or DICOM files")
    score.add_argument("--run", required=True, type=Path, help="the folder of a finished run")
    score.add_argument("--out", type=Path, default=Path("scores.csv"), help="default: scores.csv")
    given = parser.parse_args()
    try:
        table = scoring.score(given.images, given.run, given.out)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    print(scoring.summary(table, given.run))
    print(f"Written to {given.out}. This is research software, no medical device.")


if __name__ == "__main__":
    main()
