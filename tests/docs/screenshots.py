"""Screenshots of the built site in wide and narrow windows, light and dark, for people to look at.

    make docs && python -m tests.docs.screenshots --out build/screenshots index tutorial concepts/policies

Needs Chromium or Chrome on the path.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

SITE = Path("build/site")
WIDTHS = {"wide": 1440, "narrow": 500}
SCHEMES = {"dark": 0, "light": 1}
"""As Blink numbers the reader's preference."""


def browser() -> str:
    """The first browser of the family that is installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise SystemExit("no Chromium or Chrome on the path")


def shoot(page: str, width: str, scheme: str, height: int, out: Path) -> Path:
    """One picture of one page, all requests to other hosts failing."""
    file = out / f"{page.replace('/', '-')}-{width}-{scheme}.png"
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000"),
        *("--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND"),
        f"--window-size={WIDTHS[width]},{height}",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--screenshot={file}",
    )
    address = (SITE / f"{page}.html").resolve().as_uri()
    subprocess.run([browser(), *options, address], check=True, capture_output=True, timeout=120)
    return file


def main() -> None:
    """Take all pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=["index", "tutorial"])
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    parser.add_argument("--height", type=int, default=1800)
    parser.add_argument("--widths", nargs="*", default=list(WIDTHS), choices=WIDTHS)
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), choices=SCHEMES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for page in asked.pages:
        for width in asked.widths:
            for scheme in asked.schemes:
                print(shoot(page, width, scheme, asked.height, asked.out))


if __name__ == "__main__":
    main()
