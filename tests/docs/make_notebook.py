"""Execute docs/examples/notebook.ipynb and keep its outputs: `python -m tests.docs.make_notebook`.

The cells below are the source; run it after a change of them.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.docs.markdown import ROOT

PLACE = ROOT / "docs" / "examples" / "notebook.ipynb"


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs, run in a folder with this Python.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute(env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def portable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times, process ids and other things that differ from run to run."""
    for cell in notebook.cells:
        cell.metadata = {}
        cell.pop("id", None)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.nbformat_minor = 4
    return notebook


def main() -> None:
    """Execute and save."""
    notebook = nbformat.read(PLACE, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        done = portable(executed(notebook, Path(folder)))
    PLACE.write_text(re.sub(r"(?m)[ \t]+$", "", nbformat.writes(done)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
