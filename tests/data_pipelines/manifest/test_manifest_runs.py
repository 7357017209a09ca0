"""Own data end to end: what the check accepts trains, evaluates and reports."""

import csv
import json

import pytest
from PIL import Image

from configs import bi_irra, irra, ivt
from data_pipelines.check import check_dataset
from data_pipelines.data_module import DataModule
from data_pipelines.synth_pedes.own_data import write_own_data
from tipr_jax import main


def run(config, data, tmp_path) -> dict:
    """Trains an epoch on a manifest; returns results.json."""
    config.data.name, config.data.root = "manifest", str(data)
    config.data.cache_dir = str(tmp_path / "cache")
    config.eval.batch_size, config.schedule.num_epochs = 16, 1
    main.run(config, tmp_path / "run", "train")
    assert (tmp_path / "run" / "report.html").exists()
    return json.loads((tmp_path / "run" / "results.json").read_text())


def forty_rows(tmp_path) -> str:
    """40 rows of file and caption, and nothing else."""
    path = write_own_data(tmp_path / "own", people=40, images_per_id=1, height=64)
    with open(path, newline="") as file:
        rows = [(row["file"], row["caption"]) for row in csv.DictReader(file)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    return str(path)


@pytest.mark.slow
def test_forty_rows_without_people_and_splits(tmp_path, caplog):
    path = forty_rows(tmp_path)
    assert check_dataset("manifest", path).ok
    results = run(irra.get_config("debug"), path, tmp_path)
    assert "24 of 40 people to train, 8 to val, 8 to test" in caplog.text
    assert "no person_id: each of these pictures is a person of its own" in caplog.text
    assert results


@pytest.mark.slow
def test_ivt_reads_it_as_well(tmp_path):
    assert run(ivt.get_config("debug"), forty_rows(tmp_path), tmp_path)


def whole_pictures(tmp_path) -> str:
    """Two people in each picture, side by side, with boxes and captions in two languages."""
    path = write_own_data(
        tmp_path / "own", people=20, images_per_id=2, height=64, languages=("en", "zh")
    )
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for left, right in zip(rows[::2], rows[1::2], strict=True):
        images = [Image.open(path.parent / row["file"]) for row in (left, right)]
        size = (sum(image.width for image in images), max(image.height for image in images))
        scene, x = Image.new("RGB", size), 0
        for row, image in zip((left, right), images, strict=True):
            scene.paste(image, (x, 0))
            row["box"] = f"{x},0,{image.width},{image.height}"
            x += image.width
        scene.save(path.parent / left["file"])
        (path.parent / right["file"]).unlink()
        right["file"] = left["file"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.mark.slow
def test_whole_pictures_with_boxes_in_two_languages(tmp_path):
    path = whole_pictures(tmp_path)
    report = check_dataset("manifest", path, ("en", "zh"))
    assert report.ok and report.counts["train en"] == report.counts["train zh"] == (12, 24, 48)
    assert run(bi_irra.get_config("debug"), path, tmp_path)


@pytest.mark.slow
def test_pre_training_evaluates_another_data_set(tmp_path, tiny_root):
    config = ivt.get_config("pretrain_quickstart")
    config.data.root, config.data.generate = str(tiny_root), {}
    config.data.caption_lists = (str(tiny_root / "CUHK-PEDES" / "pretrain.json"),)
    config.data.cache_dir, config.data.batch_size = str(tmp_path / "cache"), 16
    config.model.width, config.model.depth, config.model.heads = 64, 1, 1
    config.schedule.num_epochs, config.schedule.warmup_epochs = 1, 0
    main.run(config, tmp_path / "run", "train")
    assert (tmp_path / "run" / "results.json").exists()


def test_a_manifest_is_never_generated_into(tmp_path):
    config = irra.get_config("quickstart")
    config.data.name, config.data.root = "manifest", forty_rows(tmp_path)
    assert DataModule(config).num_pairs == 24
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == ["manifest.csv", "photos"]
