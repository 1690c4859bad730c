"""The two pictures of the documentation, made again: docs/circuit.png and docs/page.png.

    python docs/pictures.py        # three minutes on one core; needs the extra dev and a chromium of the system

Both analyses are those of the command line: examples auto, seed 0.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from stackheads import analyze
from stackheads.report.figures import circuit_diagram, save_figure

DOCS = Path(__file__).resolve().parent
CHECKPOINTS = DOCS.parent / "checkpoints"
WIDTH = 1060
HEAD = "L3H0"
SHOWN = ("circuit", "attention")
"""Sections of the page that the picture shows."""


def main() -> None:
    """Run the script from the command line."""
    save_figure(circuit_diagram(analyze(CHECKPOINTS / "cycle-d4-l3")), DOCS / "circuit.png")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "page.html"
        analyze(CHECKPOINTS / "cycle-d8-l4").to_html(page)
        browser = playwright.chromium.launch(executable_path=found)
        visit = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light")
        visit.goto(page.as_uri())
        visit.evaluate(
            "shown => document.querySelectorAll('header, body > .skip, section').forEach("
            "part => { if (!shown.includes(part.id)) part.remove() })",
            list(SHOWN),
        )
        heads = visit.locator("#head-choice option").all_inner_texts()
        visit.select_option("#head-choice", label=next(name for name in heads if name.startswith(HEAD)))
        visit.screenshot(path=DOCS / "page.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
