"""The decoded image cache: built once, never stale, never half, and clear about damage."""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from machine import HANGS, environment
from PIL import Image

from data_pipelines.datasets import annotations
from data_pipelines.images import decoded_cache
from data_pipelines.images.image_source import image_source
from tipr_jax.preprocess import image as preprocess

ROOT = pathlib.Path(decoded_cache.__file__).parents[2]
RECORD = 16 * 8 * 3 + 4

# Reads every train image with the config below, decoding slowly; prints how many it decoded.
READER = """
import sys, time, types
import numpy as np
from data_pipelines.datasets import annotations
from data_pipelines.images import image_source
from tipr_jax.preprocess import image as preprocess

root, cache_dir, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
decoded = []
real = preprocess.decode
def slow(*args, **options):
    decoded.append(1)
    time.sleep(seconds)
    return real(*args, **options)
preprocess.decode = slow
split = annotations.load_dataset("cuhk_pedes", root)["train"]
data_cfg = types.SimpleNamespace(
    name="cuhk_pedes", image_size=(16, 8), tfds_dir="", cache=True, cache_dir=cache_dir,
    allow_truncated=False, train_resize="bilinear",
    test_resize="bilinear",
)
print("started", flush=True)
images = image_source.image_source(split, data_cfg)(np.arange(15))
print(len(decoded), int(images.sum()))
"""


@pytest.fixture
def data_cfg(data_cfg):
    data_cfg.cache = True
    return data_cfg


@pytest.fixture
def split(write_layout):
    return annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes")))["train"]


@pytest.fixture
def decoded(monkeypatch):
    """The images decoded since the test began, by path."""
    seen, real = collections.Counter(), preprocess.decode

    def decode(source, **options):
        seen[source] += 1
        return real(source, **options)

    monkeypatch.setattr(preprocess, "decode", decode)
    return seen


def pixels(split, size=(16, 8)):
    return np.stack([preprocess.resize(preprocess.decode(p), size) for p in split.image_path])


def cache_files(data_cfg) -> list[pathlib.Path]:
    return sorted(pathlib.Path(data_cfg.cache_dir).iterdir())


def built(split, data_cfg) -> pathlib.Path:
    """The cache file of `split`, as an earlier process left it."""
    image_source(split, data_cfg)
    decoded_cache._open.cache_clear()
    (path,) = cache_files(data_cfg)
    return path


def refusal(split, data_cfg) -> str:
    with pytest.raises(ValueError) as caught:
        image_source(split, data_cfg)(np.arange(15))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def start_reader(tmp_path, data_cfg, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", READER, str(tmp_path), data_cfg.cache_dir, str(seconds)]
    reader = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "started\n"
    return reader


def test_rows_are_the_decoded_images_and_padding_is_black(split, data_cfg):
    image_id = np.array([3, -1, 14, 3, 0])
    expected = pixels(split)[image_id]
    expected[1] = 0
    images = image_source(split, data_cfg)(image_id)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected)


def test_every_image_is_decoded_once(split, data_cfg, decoded):
    for _ in range(2):
        image_source(split, data_cfg)(np.arange(15))
        decoded_cache._open.cache_clear()
    assert decoded == collections.Counter(split.image_path)


def test_sizes_splits_and_decoding_options_have_caches_of_their_own(write_layout, data_cfg):
    splits = annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes")))
    for changes in ({}, {"image_size": (8, 8)}, {"allow_truncated": True}):
        vars(data_cfg).update(changes)
        for name in ("train", "test"):
            images = image_source(splits[name], data_cfg)(np.arange(len(splits[name].image_path)))
            np.testing.assert_array_equal(images, pixels(splits[name], data_cfg.image_size))
    assert len(cache_files(data_cfg)) == 6


def test_the_resize_filter_of_training_has_a_cache_of_its_own(write_layout, data_cfg):
    splits = annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes")))
    read = lambda name: image_source(splits[name], data_cfg)(np.array([3]))[0]  # noqa: E731
    bilinear = read("train")
    data_cfg.train_resize = "bicubic"
    raw = {name: preprocess.decode(splits[name].image_path[3]) for name in ("train", "test")}
    bicubic = preprocess.resize(raw["train"], (16, 8), "bicubic")
    np.testing.assert_array_equal(read("train"), bicubic)
    np.testing.assert_array_equal(read("test"), preprocess.resize(raw["test"], (16, 8)))
    assert not np.array_equal(bicubic, bilinear)
    data_cfg.train_resize = "bilinear"  # the first cache is still there
    np.testing.assert_array_equal(read("train"), bilinear)
    assert len(cache_files(data_cfg)) == 3
    data_cfg.test_resize = "bicubic"
    np.testing.assert_array_equal(read("test"), preprocess.resize(raw["test"], (16, 8), "bicubic"))
    np.testing.assert_array_equal(read("train"), bilinear)


@pytest.mark.parametrize("forge", [False, True])
def test_a_changed_image_is_seen(split, data_cfg, forge):
    """Even if it keeps its size and modification time; the stale file goes."""
    path = pathlib.Path(split.image_path[6])
    bitmap = Image.fromarray(np.zeros((20, 9, 3), np.uint8))
    bitmap.save(path, format="BMP")
    stale, stat = built(split, data_cfg), path.stat()
    Image.fromarray(np.full((20, 9, 3), 77, np.uint8)).save(path, format="BMP")
    assert path.stat().st_size == stat.st_size
    if forge:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (image_source(split, data_cfg)(np.array([6])) == 77).all()
    assert len(cache_files(data_cfg)) == 1 and not stale.exists()


def test_an_open_cache_is_not_removed_as_stale(split, data_cfg):
    source = image_source(split, data_cfg)
    (path,) = cache_files(data_cfg)
    os.utime(split.image_path[0])
    image_source(split, data_cfg)
    assert path.exists() and len(cache_files(data_cfg)) == 2
    np.testing.assert_array_equal(source(np.arange(15)), pixels(split))


def test_a_moved_data_set_keeps_its_key(write_layout, tmp_path):
    def key(root):
        return decoded_cache._key(
            annotations.load_dataset("cuhk_pedes", str(root))["train"], (16, 8), (False, "bilinear")
        )

    write_layout("cuhk_pedes")
    before = key(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "CUHK-PEDES", tmp_path / "elsewhere" / "CUHK-PEDES")
    assert key(tmp_path / "elsewhere") == before


def test_images_that_change_while_they_are_decoded(split, data_cfg, monkeypatch):
    real = preprocess.decode

    def decode(source, **options):
        os.utime(split.image_path[0])
        return real(source, **options)

    monkeypatch.setattr(preprocess, "decode", decode)
    assert "changed while they were decoded" in refusal(split, data_cfg)
    assert cache_files(data_cfg) == []


def test_a_killed_build_leaves_nothing_that_looks_valid(split, data_cfg, tmp_path):
    reader = start_reader(tmp_path, data_cfg, 0.6)
    deadline = time.time() + HANGS
    while not any(f.stat().st_size > 2 * RECORD for f in pathlib.Path(tmp_path).glob("cache/*")):
        assert reader.poll() is None and time.time() < deadline
        time.sleep(0.01)
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    assert [path.suffix for path in cache_files(data_cfg)] == [".partial"]
    np.testing.assert_array_equal(image_source(split, data_cfg)(np.arange(15)), pixels(split))
    assert [path.suffix for path in cache_files(data_cfg)] == [".images"]


@pytest.mark.slow
def test_two_processes_build_it_once(split, data_cfg, tmp_path):
    readers = [start_reader(tmp_path, data_cfg, 0.05) for _ in range(2)]
    for reader in readers:
        reader.wait(timeout=HANGS)
    # Not `communicate`: it would lose a line that came together with "started".
    outputs = [reader.stdout.read().split() for reader in readers]
    assert sorted(int(decoded) for decoded, _ in outputs) == [0, 15]
    assert {int(total) for _, total in outputs} == {int(pixels(split).sum())}
    assert len(cache_files(data_cfg)) == 1


def test_a_corrupt_row_is_named(split, data_cfg):
    path = built(split, data_cfg)
    with path.open("r+b") as file:
        file.seek(decoded_cache.HEADER_BYTES + 9 * RECORD + 100)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    source = image_source(split, data_cfg)
    np.testing.assert_array_equal(source(np.arange(9)), pixels(split)[:9])
    message = refusal(split, data_cfg)
    assert str(path) in message and "row 9 " in message and "delete it to rebuild it" in message
    path.unlink()
    np.testing.assert_array_equal(image_source(split, data_cfg)(np.arange(15)), pixels(split))


def test_a_row_is_verified_once(split, data_cfg, monkeypatch):
    checks = []
    real = decoded_cache.zlib.crc32
    image_source(split, data_cfg)
    monkeypatch.setattr(decoded_cache.zlib, "crc32", lambda x: checks.append(1) or real(x))
    for _ in range(3):
        image_source(split, data_cfg)(np.array([2, 2, 5, -1]))
    assert len(checks) == 2


@pytest.mark.parametrize("size", [0, 100, decoded_cache.HEADER_BYTES, -1])
def test_a_truncated_file_is_an_error(split, data_cfg, size):
    path = built(split, data_cfg)
    os.truncate(path, size % path.stat().st_size)
    message = refusal(split, data_cfg)
    assert str(path) in message and "delete it to rebuild it" in message and "bytes" in message


def test_a_file_of_other_images_is_an_error(split, data_cfg):
    with built(split, data_cfg).open("r+b") as file:
        file.write(decoded_cache.CacheFormat("0" * 24, 15, (16, 8)).header)
    assert "its header does not match" in refusal(split, data_cfg)


def test_no_disk_room(split, data_cfg, monkeypatch):
    room = decoded_cache.HEADER_BYTES + 15 * RECORD
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(decoded_cache.shutil, "disk_usage", lambda _: usage(room - 1))
    message = refusal(split, data_cfg)
    for part in ("15 train images", data_cfg.cache_dir, "--config.data.cache_dir", "cache=False"):
        assert part in message
    assert cache_files(data_cfg) == []
    monkeypatch.setattr(decoded_cache.shutil, "disk_usage", lambda _: usage(room))
    image_source(split, data_cfg)


def test_a_disk_that_fills_up_while_writing(split, data_cfg, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded_cache.os, "pwrite", full)
    assert "No space left on device" in refusal(split, data_cfg)
    assert cache_files(data_cfg) == []


def test_a_directory_that_cannot_be_written(split, data_cfg, tmp_path):
    (tmp_path / "file").touch()
    data_cfg.cache_dir = str(tmp_path / "file" / "cache")
    message = refusal(split, data_cfg)
    assert data_cfg.cache_dir in message and "set --config.data.cache=False" in message


def test_a_read_only_directory_with_the_cache_is_enough(split, data_cfg, monkeypatch, decoded):
    path = built(split, data_cfg)
    decoded.clear()
    path.chmod(0o444)
    path.parent.chmod(0o555)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    # Root may write everywhere; make sure that nothing tries.
    for name in ("replace", "truncate", "mkdir", "unlink", "pwrite"):
        monkeypatch.setattr(decoded_cache.os, name, refuse)
    images = image_source(split, data_cfg)(np.arange(15))
    path.parent.chmod(0o755)
    assert not decoded
    np.testing.assert_array_equal(images, pixels(split))


def test_an_unreadable_image_leaves_no_file(split, data_cfg):
    pathlib.Path(split.image_path[4]).write_bytes(b"rubbish")
    assert split.image_path[4] in refusal(split, data_cfg)
    assert cache_files(data_cfg) == []


def run_without_tensorflow(root, tmp_path, *flags) -> subprocess.CompletedProcess:
    """Trains one epoch in a process that cannot import TensorFlow."""
    for module in ("tensorflow", "tensorflow_datasets"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('poisoned')")
    command = [sys.executable, "-m", "tipr_jax.main", "--config=configs/irra.py:debug"]
    command += [f"--workdir={tmp_path}/run", f"--config.data.root={root}"]
    command += ["--config.data.image_size=(32,16)", "--config.model.patch=8"]
    command += ["--config.model.stride=8", f"--config.data.cache_dir={tmp_path}/cache", *flags]
    env = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANGS)


@pytest.mark.slow
def test_training_from_the_cache_never_imports_tensorflow(tiny_root, tmp_path):
    done = run_without_tensorflow(tiny_root, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "report.html").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 3  # train, val, test


def test_reading_files_without_tensorflow_is_a_one_line_error(tiny_root, tmp_path):
    done = run_without_tensorflow(tiny_root, tmp_path, "--config.data.cache=False")
    assert done.returncode == 1
    assert "error: without data.cache" in done.stderr.splitlines()[-1]
    assert "--config.data.cache=True" in done.stderr and "Traceback" not in done.stderr
