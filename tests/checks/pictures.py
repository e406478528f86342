"""README's pictures of the drawn set, from a finished `make figures`: see figures/readme.

The head of the front page, photographed in a browser, and figure 4.4.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import opened
from nblib.files import root

KEPT = Path(__file__).parents[2] / "figures" / "readme"


def main():
    figures = root() / "figures"
    made = figures / "phantom" / "quick" / "qualitative.png"
    if not made.exists():
        sys.exit(f"There is no {made}. Make it: make figures")
    KEPT.mkdir(exist_ok=True)
    shutil.copy(made, KEPT / "figure_4_4.png")
    with opened((figures / "html" / "index.html").as_uri(), 1100, 1250) as (page, _):
        page.screenshot(path=KEPT / "front_page.png")
    print(*sorted(KEPT.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
