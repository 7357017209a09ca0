"""Adding by Ray's workers gives the gallery that this process alone gives, killed or not."""

import collections
import dataclasses
import json
import os
import random
import signal
import socket
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
from tipr_jax.gallery import Retriever, ray_adding, ray_cluster, ray_worker
from tipr_jax.gallery.photos import Skipped
from tipr_jax.gallery.store import Box, FileState, Item

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "irra_model"
KILLS = int(os.environ.get("KILLS", "2"))
PHOTOS = 300


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, for all tests of this file that do not start it themselves."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' has half a gigabyte")
    ray_cluster.import_ray()
    with ray_cluster.cluster(ray):
        yield ray


def photos_in(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 255, (48, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def place(tmp_path):
    """Photos, a copy, a name that is no UTF-8, and what is no photo or only begins like one."""
    folder = photos_in(tmp_path / "photos", PHOTOS)
    photo = (folder / "007.png").read_bytes()
    (folder / "copy.png").write_bytes(photo)
    Image.new("RGB", (20, 50), "red").save(folder / os.fsdecode(b"na\xefve.png"))
    (folder / "notes.txt").write_text("not a photo")
    (folder / "text.jpg").write_text("not a photo")
    (folder / "empty.png").write_bytes(b"")
    for name in ("050", "150", "250"):
        (folder / f"{name}.png").write_bytes(photo[:200] + name.encode())
    return folder


def contents(retriever: Retriever) -> tuple:
    """Everything that a gallery holds: items with their ids, vectors, files."""
    store, ids = retriever.store, retriever.store.select()
    items = [dataclasses.replace(item, added="") for item in store.items(ids)]
    return items, store.vectors_of(ids, retriever.record).tolist(), store.files()


def test_a_row_is_what_it_was_made_of():
    path = os.fsdecode(b'/na\xefve "photo".png')
    item = Item(
        "0" * 64, path, Box(1, 2, 3, 4), 0.1, 5, "gate", "2026", ("vip", "é"), {"floor": [2, None]}
    )
    vectors = np.array([[0.5, -1], [0.25, 1e-4]], np.float32)
    people = [(item, vectors[0]), (dataclasses.replace(item, box=None), vectors[1])]
    skipped = Skipped(path, "damaged", f"{path}: {path}")
    key = ray_worker.work_id(path)
    for some, state, why in ((people, STATE, None), (people, None, skipped), ([], STATE, skipped)):
        row = ray_worker.to_row(key, some, state, why)
        json.dumps(row["found"]).encode("ascii")
        back, reason = ray_worker.from_row(row)
        assert back.items == [item for item, _ in some] and reason == why
        assert back.files == ({path: state} if state else {})
        expected = vectors.astype(np.float16) if some else np.zeros((0, 0))
        np.testing.assert_array_equal(back.vectors, expected)


STATE = FileState(7, 2**62, "ab" * 32, "nanodet")


def test_a_file_that_changes_is_other_work(tmp_path):
    path = str(tmp_path / os.fsdecode(b"a:b\xef.png"))
    gone = ray_worker.work_id(path)
    Path(path).write_text("a")
    first = ray_worker.work_id(path)
    os.utime(path, ns=(0, 0))
    ids = {gone, first, ray_worker.work_id(path)}
    assert len(ids) == 3 and {ray_worker.path_of(key) for key in ids} == {path}


def test_every_file_is_in_one_block_and_videos_are_alone():
    keys = {b"%d" % n: str(n) for n in range(2 * ray_adding.BLOCK + 3)}
    alone = {b"0", b"9"}
    made = ray_adding.blocks(keys, alone)
    assert sorted(key for block in made for key in block) == sorted(keys)
    assert [len(block) for block in made] == [ray_adding.BLOCK, ray_adding.BLOCK, 1, 1, 1]
    assert made[-2:] == [[b"0"], [b"9"]] and ray_adding.blocks({}, set()) == []


def test_without_the_extra_the_error_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tipr_jax\[ray\]'"):
        Retriever.create(tmp_path / "my.gallery", model).add(tmp_path, engine="ray")


def test_a_cluster_that_is_not_there_or_refuses():
    class Refusing:
        def init(self, *_: object) -> None:
            raise ConnectionError("Failed to connect")

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(OSError, match=f"RAY_ADDRESS={address}: no Ray there"):
            ray_cluster.connect(None, address)
        listening.listen()
        for given in (address, "auto", "ray://head:10001"):
            with pytest.raises(OSError, match=f"RAY_ADDRESS={given}: Ray lets nobody in"):
                ray_cluster.connect(Refusing(), given)
    with pytest.raises(OSError, match="no Ray there"):
        ray_cluster.connect(None, "localhost:99999999")


def test_a_worker_for_each_gpu_or_machine():
    class Nodes:
        def __init__(self, *machines: dict[str, float]):
            self.machines = machines

        def nodes(self) -> list[dict]:
            alive = [{"Alive": True, "Resources": machine} for machine in self.machines]
            return [*alive, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]

    head: dict[str, float] = {"memory": 1e9}  # a head node often does no work
    workers = ray_cluster.workers
    assert workers(Nodes({"CPU": 3.0})) == (1, {"num_cpus": 2})
    assert workers(Nodes({"CPU": 1.0})) == (1, {"num_cpus": 1})
    assert workers(Nodes(head, {"CPU": 8.0}, {"CPU": 16.0})) == (2, {"num_cpus": 5})
    one_each = {"num_gpus": 1, "num_cpus": 1}
    assert workers(Nodes(head, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0})) == (6, one_each)


def test_an_engine_that_is_not_there(model, tmp_path):
    with pytest.raises(ValueError, match="engine is 'spark', expected '' or 'ray'"):
        Retriever.in_memory(model).add(tmp_path, engine="spark")


@pytest.mark.slow
def test_what_has_no_file_cannot_be_shared(ray, model, tmp_path):
    for retriever in (Retriever.in_memory(MODEL), Retriever.create(tmp_path / "a.gallery", model)):
        with pytest.raises(ValueError, match="in this process's memory alone"):
            retriever.add(tmp_path, engine="ray")


@pytest.mark.slow
def test_the_same_gallery_as_without_it(ray, place, tmp_path):
    plain = Retriever.create(tmp_path / "plain.gallery", MODEL)
    other = Retriever.create(tmp_path / "ray.gallery", MODEL)
    facts = dict(camera="gate", tags=["vip"], meta={"floor": 2})
    assert other.add(place, engine="ray", **facts) == plain.add(place, **facts)
    assert contents(other) == contents(plain)
    assert len(contents(other)[0]) == PHOTOS - 3 + 1, "a copy is no item, damaged photos are none"
    assert not list(tmp_path.glob("*.ray"))
    (place / "001.png").unlink()
    (place / "new.png").write_bytes((place / "002.png").read_bytes())
    Image.new("RGB", (9, 9)).save(place / "003.png")
    assert other.add(place, engine="ray", **facts) == plain.add(place, **facts)
    assert contents(other) == contents(plain)


@pytest.mark.slow
def test_people_in_photos_and_in_videos(ray, tmp_path):
    av = pytest.importorskip("av", reason="the extra 'video' reads videos")
    folder = photos_in(tmp_path / "photos", 3)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for level in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 20 * level, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    rows = ["photos/000.png,2,2,8,20,", "photos/000.png,4,20,8,20,", "photos/001.png,90,2,9,9,"]
    rows += [f"photos/clip.mp4,{10 + n},20,30,80,{n}" for n in range(10)]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join(["file,x,y,w,h,frame", *rows]))
    plain = Retriever.create(tmp_path / "plain.gallery", MODEL)
    other = Retriever.create(tmp_path / "ray.gallery", MODEL)
    added = plain.add(folder, detect=f"file:{boxes}")
    relative = f"file:{os.path.relpath(boxes)}"  # workers may be in another directory
    assert other.add(folder, detect=relative, engine="ray") == added
    assert contents(other) == contents(plain) and len(contents(other)[0]) == 3
    assert [s.kind for s in added.skipped] == ["damaged", "nobody found"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["lost", "empty", "of another time"])
def test_what_is_not_whole_of_a_killed_run_is_done_again(ray, place, tmp_path, monkeypatch, damage):
    """Every file is marked as finished, but the rows of a part of them are not there."""
    import pyarrow.parquet as parquet

    plain = Retriever.create(tmp_path / "plain.gallery", MODEL)
    other = Retriever.create(tmp_path / "ray.gallery", MODEL)
    with monkeypatch.context() as patch:
        patch.setattr(ray_adding.RayAdder, "_put", lambda *args: sys.exit("killed"))
        with pytest.raises(SystemExit):
            other.add(place, engine="ray")
    file, *rest = (tmp_path / "ray.gallery.ray").glob("*/finished/*.parquet")
    assert rest and not len(other.store.select())
    if damage == "lost":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
        next((tmp_path / "ray.gallery.ray").glob("*/checkpoint/*.parquet")).write_bytes(b"")
    else:
        key = parquet.read_table(file)["id"][0].as_py()
        os.utime(ray_worker.path_of(key), ns=(1, 1))
    assert other.add(place, engine="ray") == plain.add(place)
    items, vectors, files = contents(other)
    by_path = lambda items: sorted((item.path, item.content) for item in items)  # noqa: E731
    assert by_path(items) == by_path(contents(plain)[0]) and files == contents(plain)[2]
    assert not list(tmp_path.glob("*.ray"))


@pytest.mark.slow
def test_an_error_of_a_worker_is_one_line(ray, place, tmp_path):
    _, params = checkpoints.load_params(MODEL)
    broken = tmp_path / "broken"
    nothing = jax.tree.map(lambda x: x * np.nan, params)
    checkpoints.save_params(broken, nothing, run_files.read_config(MODEL))
    retriever = Retriever.create(tmp_path / "my.gallery", broken)
    with pytest.raises(ValueError, match="not finite") as caught:
        retriever.add(place, engine="ray")
    assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "moved").mkdir()
    for part in broken.iterdir():
        part.rename(tmp_path / "moved" / part.name)
    with pytest.raises((ValueError, OSError)) as caught:
        retriever.add(place, engine="ray")
    assert str(broken) in str(caught.value) and len(str(caught.value).splitlines()) == 1


# A module: the command, whose workers write down what they embed.
LOGGED = """
import os, sys
from tipr_jax.gallery import __main__, ray_adding, ray_worker

class Logged(ray_worker.Worker):
    def __call__(self, block):
        rows = super().__call__(block)
        with open(os.environ["LOG"], "a") as file:
            file.writelines(ray_worker.path_of(key) + "\\n" for key in block["id"])
        return rows

ray_adding.Worker, ray_adding.BLOCK = Logged, 32
"""


def command(place: Path, gallery: Path, log: Path) -> subprocess.Popen:
    (place.parent / "logged.py").write_text(LOGGED)
    call = ["add", place, f"--model={MODEL}", f"--gallery={gallery}", "--engine=ray", "--json"]
    start = "import sys, logged; logged.__main__.main(sys.argv[1:])"
    env = environment(LOG=str(log), PYTHONPATH=f"{place.parent}:{ROOT}")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", start, *map(str, call)], env=env, **pipes)


def finished(gallery: Path) -> set[str]:
    """The files whose rows Ray has marked as finished."""
    import pyarrow.parquet as parquet

    marks = Path(f"{gallery}.ray").glob("*/checkpoint/*.parquet")
    keys = [
        key
        for mark in marks
        if ".pending" not in mark.suffixes
        for key in parquet.read_table(mark)["id"].to_pylist()
    ]
    return {ray_worker.path_of(key) for key in keys}


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    pytest.importorskip("ray", reason="the extra 'ray' has half a gigabyte")
    place, gallery = photos_in(tmp_path / "photos", 640), tmp_path / "my.gallery"
    embedded: collections.Counter[str] = collections.Counter()
    for kill in range(KILLS):
        done, log = finished(gallery), tmp_path / f"{kill}.log"
        process = command(place, gallery, log)
        aim = random.randint(0, 6) * 32
        while process.poll() is None and len(finished(gallery)) < min(640, len(done) + aim):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.3))
        assert process.poll() in (None, 0), process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = log.read_text().split() if log.exists() else []
        assert not done & set(now), "what was finished is not embedded again"
        embedded.update(now)
    done, log = finished(gallery), tmp_path / "last.log"
    printed, errors = (process := command(place, gallery, log)).communicate()
    assert process.returncode == 0 and not errors, errors
    assert json.loads(printed)["items"] == 640
    now = log.read_text().split() if log.exists() else []
    assert not done & set(now) and set(now) | set(embedded) >= {str(p) for p in place.iterdir()}
    embedded.update(now)
    again = sum(embedded.values()) - len(embedded)
    print(f"{KILLS} kills, {again} files embedded again, whose blocks were not finished")
    plain = Retriever.create(tmp_path / "plain.gallery", MODEL)
    plain.add(place)
    (items, vectors, files), expected = contents(Retriever.open(gallery)), contents(plain)
    assert (items, files) == (expected[0], expected[2])
    # This process has eight devices and the workers have one, which rounds otherwise.
    np.testing.assert_allclose(vectors, expected[1], rtol=0, atol=2**-10)
    assert not list(tmp_path.glob("*.ray"))
