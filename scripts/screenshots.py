"""The pictures of a report that the README shows: ``python -m scripts.screenshots REPORT [FOLDER]``.

Needs the packages of requirements/dev.txt and a ``chromium`` on the path.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SHOTS = {
    "report.png": (1280, 860, ""),
    "evidence.png": (1280, 1120, "article.cell.pass"),
    "phone.png": (390, 844, ""),
}
"""Width, height, and what is scrolled to, where there is such a cell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/img"))
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium on the path; on Debian: apt-get install chromium")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, selector) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            page.goto(options.report.resolve().as_uri())
            if selector and page.locator(selector).count():
                page.locator(selector).first.evaluate("it => it.scrollIntoView()")
            page.screenshot(path=options.folder / name)
            print(options.folder / name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
