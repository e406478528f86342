"""README's pictures of the drawn set, from a finished `make figures`: see figures/readme.

The head of the front page, photographed in a browser, and figure 4.4.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import opened

FIGURES = Path(__file__).parents[2] / "figures"


def main():
    made, kept = FIGURES / "phantom" / "quick" / "qualitative.png", FIGURES / "readme"
    if not made.exists():
        sys.exit(f"There is no {made}. Make it: make figures")
    kept.mkdir(exist_ok=True)
    shutil.copy(made, kept / "figure_4_4.png")
    with opened((FIGURES / "html" / "index.html").as_uri(), 1100, 1250) as (page, _):
        page.screenshot(path=kept / "front_page.png")
    print(*sorted(kept.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
