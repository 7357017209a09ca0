"""The Colab notebooks: the committed .ipynb are made from their .py, and run at small size."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "scripts" / "colab"
SOURCES = sorted(FOLDER.glob("*.py"))


def made(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source file, with cell ids that do not change from call to call."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def test_there_are_notebooks():
    assert len(SOURCES) == 3


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_is_made_from_its_source(source):
    """Remake them: for f in scripts/colab/*.py; do python tests/test_colab.py $f; done"""
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [(c.cell_type, c.source) for c in committed.cells] == [
        (c.cell_type, c.source) for c in made(source).cells
    ]
    assert not any(cell.get("outputs") for cell in committed.cells)
    assert committed.metadata["accelerator"] in ("TPU", "GPU")
    badge = f"tipr_jax/blob/main/scripts/colab/{source.stem}.ipynb"
    assert badge in committed.cells[0].source


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_runs(source, tmp_path, monkeypatch, tiny_root):
    monkeypatch.setenv("TIPR_SMALL", "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TIPR_PHOTOS", str(tiny_root / "CUHK-PEDES" / "imgs"))
    if source.stem != "train_and_search":
        monkeypatch.setenv("TIPR_MODEL", str(trained(tmp_path)))
    client = nbclient.NotebookClient(
        made(source), timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises with the cell's traceback


def trained(directory: Path) -> Path:
    """A small run to search with."""
    command = "-m tipr_jax.main --config=configs/irra.py:debug --workdir=run".split()
    subprocess.run([sys.executable, *command], cwd=directory, check=True, capture_output=True)
    return directory / "run"


if __name__ == "__main__":
    given = Path(sys.argv[1])
    nbformat.write(made(given), given.with_suffix(".ipynb"))
