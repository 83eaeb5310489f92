"""The pictures that the README shows: ``python -m scripts.screenshots REPORT [FOLDER]``.

With the address of a live page (http://127.0.0.1:8089/verdict, while a run lasts) in place of a report: its picture.
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
LIVE_SHOTS = {"live.png": (1280, 1000, "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/img"))
    options = parser.parse_args()
    live = options.page.startswith("http://")
    address = options.page if live else Path(options.page).resolve().as_uri()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium on the path; on Debian: apt-get install chromium")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, selector) in (LIVE_SHOTS if live else SHOTS).items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            page.goto(address)
            if selector and page.locator(selector).count():
                page.locator(selector).first.evaluate("it => it.scrollIntoView()")
            page.screenshot(path=options.folder / name)
            print(options.folder / name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
