"""The notebooks run from top to bottom, offline, and are stored with what they print."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ANALYSES = Path(__file__).parent.parent / "analyses"
SAYS = {
    "tour": ["hop 1", "trial on 128 fresh examples", "broken:"],
    "bring_your_own": ["previous", "hop 1: L1H", "? "],
    "emergence": ["order of emergence", "at step 4000"],
}
IN_THE_MOVING_VIEW = {"? "}
"""What only the attention view says, which is not stored."""


def test_every_notebook_is_looked_at():
    assert {path.stem for path in ANALYSES.glob("*.ipynb")} == SAYS.keys()


@pytest.mark.parametrize("name", SAYS)
def test_outputs_are_stored_without_scripts(name):
    """`make notebooks` has been run: they can be read where nothing runs."""
    book = nbformat.read(ANALYSES / f"{name}.ipynb", as_version=4)
    text = "\n".join(str(output) for cell in book.cells for output in cell.get("outputs", []))
    for words in set(SAYS[name]) - IN_THE_MOVING_VIEW:
        assert words in text
    assert "run this cell to see it" in text
    assert "<script" not in text
    assert "stderr" not in text


@pytest.mark.parametrize("name", SAYS)
def test_the_notebook_runs(name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(ANALYSES / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(ANALYSES)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    text = "\n".join(str(output.get("text") or output.get("data")) for output in outputs)
    for words in SAYS[name]:
        assert words in text
    assert text.count("var CircuitsVis=") == 1  # the script once in each notebook
    assert text.count("window.CircuitsVis.render") >= 1
