"""TFDS builders: prepare a tiny data set and read it back."""

import importlib
import pathlib

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

from data_pipelines.datasets import annotations  # noqa: E402
from data_pipelines.images.image_source import image_source  # noqa: E402
from data_pipelines.tfds.base import LanguageConfig  # noqa: E402


def prepare(name: str, manual_dir: pathlib.Path, data_dir: pathlib.Path) -> None:
    package = name.split("/")[0]
    home = "data_pipelines" if package == "synth_pedes" else "data_pipelines.tfds"
    importlib.import_module(f"{home}.{package}.{package}_dataset_builder")
    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir))
    tfds.builder(name, data_dir=data_dir).download_and_prepare(download_config=config)


@pytest.mark.parametrize("name", ["cuhk_pedes", "icfg_pedes", "rstp_reid"])
def test_examples_keep_order_bytes_and_captions(name, write_layout, tmp_path):
    root = write_layout(name)
    prepare(name, root, tmp_path / "tfds")
    for split_name, split in annotations.load_dataset(name, str(root)).items():
        records = tfds.data_source(
            name,
            data_dir=tmp_path / "tfds",
            split=split_name,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        assert len(records) == len(split.image_path)
        captions = []
        for image_id, path in enumerate(split.image_path):
            record = records[image_id]
            assert record["image"] == pathlib.Path(path).read_bytes()
            assert path.endswith("imgs/" + record["path"].decode())
            assert record["image_id"] == image_id
            assert record["person_id"] == split.image_person_id[image_id]
            captions += [caption.decode() for caption in record["captions"]]
        assert tuple(captions) == split.caption


def test_load_gives_decoded_images_in_order(write_layout, tmp_path):
    root = write_layout("cuhk_pedes")
    prepare("cuhk_pedes", root, tmp_path / "tfds")
    examples = list(tfds.load("cuhk_pedes", data_dir=tmp_path / "tfds", split="val"))
    split = annotations.load_dataset("cuhk_pedes", str(root))["val"]
    assert [int(example["person_id"]) for example in examples] == split.image_person_id.tolist()
    assert all(example["image"].shape == (20, 9, 3) for example in examples)


def test_the_pipeline_reads_the_same_pixels_from_tfds(write_layout, tmp_path, data_cfg):
    root = write_layout("cuhk_pedes")
    prepare("cuhk_pedes", root, tmp_path / "tfds")
    split = annotations.load_dataset("cuhk_pedes", str(root))["train"]
    from_files = image_source(split, data_cfg)
    expected = from_files(np.arange(15))
    for path in split.image_path:
        pathlib.Path(path).unlink()
    data_cfg.tfds_dir = str(tmp_path / "tfds")
    from_tfds = image_source(split, data_cfg)
    np.testing.assert_array_equal(from_tfds(np.arange(15)), expected)


def test_a_stale_copy_is_an_error(write_layout, tiny_entries, tmp_path, data_cfg):
    root = write_layout("cuhk_pedes")
    prepare("cuhk_pedes", root, tmp_path / "tfds")
    write_layout("cuhk_pedes", tiny_entries("cuhk_pedes")[::-1])
    split = annotations.load_dataset("cuhk_pedes", str(root))["train"]
    data_cfg.tfds_dir = str(tmp_path / "tfds")
    with pytest.raises(ValueError, match="prepare it again"):
        image_source(split, data_cfg)(np.array([0]))


def test_an_unprepared_directory_is_an_error(write_layout, tmp_path, data_cfg):
    split = annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes")))["train"]
    data_cfg.tfds_dir = str(tmp_path / "tfds")
    with pytest.raises(ValueError, match="no prepared cuhk_pedes .*clear --config.data.tfds_dir"):
        image_source(split, data_cfg)


def test_synth_pedes_generates_what_it_reads(tmp_path):
    prepare("synth_pedes/tiny", tmp_path, tmp_path / "tfds")
    source = tfds.data_source("synth_pedes/tiny", data_dir=tmp_path / "tfds")
    assert {name: len(records) for name, records in source.items()} == {
        "train": 16,
        "val": 8,
        "test": 8,
    }
    example = source["train"][0]
    assert example["person_id"] < 4 and len(example["captions"]) == 2
    assert example["image"].ndim == 3


@pytest.mark.parametrize("name", ["cuhk_pedes", "ufine_bench"])
def test_a_copy_in_languages_has_translations_and_serves_all_runs(
    name, write_languages, tmp_path, data_cfg
):
    directory = write_languages(name, ("en", "zh", "de"))
    importlib.import_module(f"data_pipelines.tfds.{name}")
    config = LanguageConfig(languages=("en", "zh", "de"))
    builder = tfds.builder(name, config=config, data_dir=tmp_path / "tfds")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(directory.parent))
    )
    split = annotations.load_dataset(name, str(directory.parent), ("de", "en"))["train"]
    records = builder.as_data_source("train")
    english = [text.decode() for record in records for text in record["captions"]]
    german = [text.decode() for record in records for text in record["translations"]["de"]]
    assert (tuple(german), tuple(english)) == (split.caption, split.translation["en"])
    assert set(records[0]["translations"]) == {"zh", "de"}
    assert [record["person_id"] for record in records] == split.image_person_id.tolist()

    expected = image_source(split, data_cfg)(np.arange(15))
    for path in split.image_path:
        pathlib.Path(path).unlink()
    data_cfg.name, data_cfg.tfds_dir = name, str(tmp_path / "tfds")
    np.testing.assert_array_equal(image_source(split, data_cfg)(np.arange(15)), expected)


def test_synth_pedes_in_languages(tmp_path):
    builder_module = importlib.import_module(
        "data_pipelines.synth_pedes.synth_pedes_dataset_builder"
    )
    config = builder_module.SynthConfig(
        name="tiny_languages", train_ids=2, val_ids=0, test_ids=1, height=64, languages=("en", "zh")
    )
    builder = tfds.builder("synth_pedes", config=config, data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    example = builder.as_data_source("train")[0]
    assert len(example["translations"]["zh"]) == len(example["captions"]) == 2
