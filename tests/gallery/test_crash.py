"""The gallery's commands killed with SIGKILL at any moment: nothing is lost, a rerun completes.

KILLS=20 in the environment kills each command so many times.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.machine import environment
from tipr_jax import checkpoints, run_files
from tipr_jax.gallery.store import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "irra_model"
KILLS = int(os.environ.get("KILLS", "2"))
PHOTOS = 640  # ten transactions


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = rng.integers(0, 255, (96, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def gallery(tmp_path) -> Path:
    return tmp_path / "my.gallery"


def start(*words: object, gallery: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tipr_jax.gallery", *map(str, words), f"--gallery={gallery}"]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def finish(*words: object, gallery: Path) -> str:
    process = start(*words, gallery=gallery)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def killed(*words: object, gallery: Path, moved: int) -> None:
    """Runs a command and kills it a moment after it has changed `moved` more rows."""
    before = state(gallery)
    process = start(*words, gallery=gallery)
    while process.poll() is None and len(state(gallery) ^ before) < moved:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.05))
    seen = state(gallery)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    now = state(gallery)
    went_on = now ^ before
    assert seen ^ before <= went_on, "what a reader saw is still so"


def state(gallery: Path) -> set[tuple[int, int]]:
    """(item, model) of every vector; none is without its item, and no content is there twice."""
    if not gallery.exists():
        return set()
    with Store.open(gallery) as store:
        assert store._db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        store._db.execute("BEGIN")  # one view, whatever a writer does meanwhile
        items = store.items(store.select())
        assert len({item.content for item in items}) == len(items)
        vectors = {(int(i), m.id) for m in store.models() for i in store.embedded(m)}
        assert {item for item, _ in vectors} <= {item.id for item in items}
        return vectors


def test_add(photos, gallery):
    for kill in range(KILLS):
        killed("add", photos, f"--model={MODEL}", gallery=gallery, moved=64 if kill % 2 else 1)
    assert f"it holds {PHOTOS} items" in finish("add", photos, f"--model={MODEL}", gallery=gallery)
    assert "nothing to do" in finish("add", photos, gallery=gallery)
    with Store.open(gallery) as store:
        (model,) = store.models()
        assert len(store.embedded(model)) == len(store.files()) == PHOTOS


def test_delete(photos, gallery):
    finish("add", photos, f"--model={MODEL}", gallery=gallery)
    for kill in range(KILLS):
        part = f"path=*/{kill % 7}*.png"
        before = state(gallery)
        process = start("delete", "--where", part, gallery=gallery)
        time.sleep(random.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Store.open(gallery) as store:
            left = len(store.select({"path": f"*/{kill % 7}*.png"}))
            whole = len(before) - len(state(gallery))
            assert left == 0 or whole == 0, "all of it or nothing"
        finish("delete", "--where", part, gallery=gallery)


def test_reindex(photos, gallery, tmp_path):
    finish("add", photos, f"--model={MODEL}", gallery=gallery)
    models = [MODEL, another_model(tmp_path)]
    for kill in range(KILLS):
        target = models[(kill + 1) % 2]
        killed("reindex", f"--model={target}", gallery=gallery, moved=1 + 64 * (kill % 3))
        finish("search", "a man", "--json", gallery=gallery)  # by the old vectors
        printed = finish("reindex", f"--model={target}", gallery=gallery)
        assert f"searches use {target} now" in printed
        with Store.open(gallery) as store:
            (model,) = store.models()
            assert len(store.embedded(model)) == PHOTOS


def another_model(folder: Path) -> Path:
    """The same model with other weights."""
    target = folder / "another"
    _, params = checkpoints.load_params(MODEL)
    config = run_files.read_config(MODEL)
    checkpoints.save_params(target, jax.tree.map(lambda x: x * 1.01, params), config)
    return target
