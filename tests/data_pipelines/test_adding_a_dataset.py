"""A data set that the package does not know: one row in the table of layouts is all it takes."""

import numpy as np
import pytest

from configs import irra
from data_pipelines.check import check_dataset
from data_pipelines.data_module import DataModule
from data_pipelines.datasets.layouts import LAYOUTS, Counts, DatasetLayout
from tipr_jax.text.clip_bpe import ClipTokenizer

TOY = DatasetLayout(
    title="Toy-PEDES",
    directory="Toy-PEDES",
    annotation_files=("toy.json",),
    path_key="photo",
    first_train_id=7,
    published={"train": Counts(5, 15, 20), "val": Counts(2, 4, 6), "test": Counts(2, 4, 6)},
    homepage="https://example.org/toy",
)


@pytest.fixture
def root(monkeypatch, write_layout):
    monkeypatch.setitem(LAYOUTS, "toy_pedes", TOY)
    return write_layout("toy_pedes")


def test_it_is_checked_against_its_published_counts(root):
    report = check_dataset("toy_pedes", str(root))
    assert not report.problems, report.problems


def test_it_can_be_trained_on(root, tmp_path):
    config = irra.get_config("debug")
    config.data.name, config.data.root = "toy_pedes", str(root)
    config.data.cache_dir, config.data.generate = str(tmp_path / "cache"), {}
    config.data.image_size, config.data.batch_size = (32, 16), 4
    data = DataModule(config, ClipTokenizer())
    assert data.splits["train"].num_persons == 5
    batch = next(data.train_batches(0))
    assert batch["image"].shape == (4, 32, 16, 3) and batch["valid"].all()
    assert set(np.unique(batch["person_id"])) <= set(range(5))


def test_it_has_a_tfds_builder(root, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from data_pipelines.tfds.base import PersonRetrievalBuilder

    class ToyPedes(PersonRetrievalBuilder):
        VERSION = tfds.core.Version("1.0.0")

    builder = ToyPedes(data_dir=tmp_path / "tfds")
    manual = tfds.download.DownloadConfig(manual_dir=str(root))
    builder.download_and_prepare(download_config=manual)
    assert len(builder.as_data_source("train")) == 15
