"""The check of a data set says what training, evaluation and the report will say.

Random damage to a small data set: where the check finds no problem, a run of one epoch passes with
its report; where it finds one, it names the file or the entry, and where the run fails, the check
failed before.
"""

import json
import os
import shutil
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from data_pipelines.check import check_dataset
from tipr_jax import main

SPLITS = ("train", "val", "test")


def entries_of(root: Path) -> list[dict]:
    return json.loads((root / "CUHK-PEDES" / "reid_raw.json").read_text())


def image(root: Path, entry: dict) -> Path:
    return root / "CUHK-PEDES" / "imgs" / entry["file_path"]


def to_entry(**fields):
    return lambda root, entries, entry: entry.update(fields)


def to_image(change):
    def damage(root: Path, entries: list[dict], entry: dict) -> None:
        if (path := image(root, entry)).exists():
            change(path)

    return damage


def turn(path: Path) -> None:
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, "JPEG", exif=exif)


def rename_to_bytes(root: Path, entries: list[dict], entry: dict) -> None:
    """As a Chinese zip leaves it; JSON holds such a byte as half a character."""
    name = os.fsdecode(b"\xd5\xd5.png")
    if (path := image(root, entry)).exists():
        path.rename(root / "CUHK-PEDES" / "imgs" / name)
        entry["file_path"] = name


def without_split(root: Path, entries: list[dict], entry: dict) -> None:
    entries[:] = [other for other in entries if other["split"] != entry["split"]]


# Name -> (root, entries, one of them) -> None. Some do harm, some do not.
DAMAGES = {
    "image gone": to_image(lambda path: path.unlink()),
    "image empty": to_image(lambda path: path.write_bytes(b"")),
    "image cut": to_image(lambda path: path.write_bytes(path.read_bytes()[:-200])),
    "image is a web page": to_image(lambda path: path.write_text("<html>")),
    "image turned": to_image(turn),
    "caption empty": to_entry(captions=[" "]),
    "caption of half a character": to_entry(captions=["a man \ud83d"]),
    "caption in another script": to_entry(captions=["穿红色外套的男人 👕"]),
    "caption very long": to_entry(captions=["a man in a coat " * 200]),
    "caption of markup": to_entry(captions=["<b>$a$ & \\frac{1}{2}\t\x07</b>"]),
    "caption a string": to_entry(captions="a man"),
    "no captions": to_entry(captions=[]),
    "id in quotes": to_entry(id="3"),
    "id a name": to_entry(id="anna"),
    "id far away": to_entry(id=2**31 - 1),
    "id a fraction": to_entry(id=1.5),
    "path with back-slashes": lambda root, entries, entry: entry.update(
        file_path=entry["file_path"].replace("/", "\\")
    ),
    "path above": to_entry(file_path="../x.png"),
    "path of half a character": to_entry(file_path="\ud83d.png"),
    "name that is no UTF-8": rename_to_bytes,
    "split unknown": to_entry(split="query"),
    "split spelt otherwise": to_entry(split="Train"),
    "entry a list": lambda root, entries, entry: entries.append([1]),
    "field gone": lambda root, entries, entry: entry.pop("id"),
    "split gone": without_split,
    "entry twice": lambda root, entries, entry: entries.append(dict(entry)),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", [[name] for name in DAMAGES], ids=lambda names: names[0])
def test_each_damage(names, tiny_config, tiny_root, tmp_path):
    agree(names, 5, tiny_config, tiny_root, tmp_path)


@pytest.mark.slow
@hypothesis.given(
    names=strategies.lists(strategies.sampled_from(sorted(DAMAGES)), min_size=2, max_size=4),
    place=strategies.integers(0, 40),
)
@hypothesis.settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_several_at_once(names, place, tiny_config, tiny_root, tmp_path_factory):
    agree(names, place, tiny_config, tiny_root, tmp_path_factory.mktemp("damaged"))


def agree(names, place: int, config, source: Path, directory: Path) -> None:
    root, workdir = directory / "data", directory / "run"
    shutil.copytree(source, root)
    entries = entries_of(root)
    for number, name in enumerate(names):
        chosen = entries[(place + number) % len(entries)]
        if isinstance(chosen, dict) and "file_path" in chosen and "split" in chosen:
            DAMAGES[name](root, entries, chosen)
    (root / "CUHK-PEDES" / "reid_raw.json").write_text(json.dumps(entries))

    config = config.copy_and_resolve_references()
    config.data.root, config.data.cache_dir = str(root), str(directory / "cache")
    config.schedule.num_epochs = 1
    report = check_dataset("cuhk_pedes", str(root))
    failure = None
    try:
        main.run(config, workdir, "train")
    except (ValueError, OSError) as error:
        failure = str(error)
    if report.ok:
        assert failure is None, f"{names}: the check passed, the run: {failure}"
        assert (workdir / "report.html").exists()
    else:
        details = [line for lines in report.problems.values() for line in lines]
        assert all("entry" in line or "imgs" in line for line in details), details
        assert failure, f"{names}: the check found {report.problems}, the run passed"
