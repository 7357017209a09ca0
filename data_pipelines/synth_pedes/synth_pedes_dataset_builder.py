"""TFDS builder of the generated data set: renders it, then reads it back in the CUHK-PEDES layout.

Importing this module registers `tfds.load("synth_pedes")`; no download, no licence form.
"""

import dataclasses
import os

import tensorflow_datasets as tfds

from data_pipelines.tfds.base import PersonRetrievalBuilder
from tipr_jax.languages import LANGUAGES


@dataclasses.dataclass(kw_only=True)
class SynthConfig(tfds.core.BuilderConfig):
    """How much to generate; the fields are those of `data_pipelines.synth_pedes.generate`."""

    train_ids: int
    val_ids: int
    test_ids: int
    images_per_id: int = 4
    height: int = 192
    seed: int = 0
    languages: tuple[str, ...] = ()


class Builder(PersonRetrievalBuilder):
    """Generated pedestrians; see `PersonRetrievalBuilder` for the features."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        SynthConfig(name="default", train_ids=1000, val_ids=50, test_ids=100),
        SynthConfig(
            name="multilingual", train_ids=1000, val_ids=50, test_ids=100, languages=LANGUAGES
        ),
        SynthConfig(name="tiny", train_ids=4, val_ids=2, test_ids=2, height=64),
    ]

    @property
    def layout_name(self) -> str:
        return "cuhk_pedes"

    @property
    def licence(self) -> str:
        return "Apache-2.0"

    def _data_root(self, dl_manager: tfds.download.DownloadManager) -> str:
        from data_pipelines.synth_pedes.generate import generate

        config = self.builder_config
        assert isinstance(config, SynthConfig)
        root = os.path.join(os.fspath(dl_manager.download_dir), "synth_pedes", config.name)
        generate(
            root,
            self.layout_name,
            train_ids=config.train_ids,
            val_ids=config.val_ids,
            test_ids=config.test_ids,
            images_per_id=config.images_per_id,
            height=config.height,
            seed=config.seed,
            languages=config.languages,
            workers=1,  # more would restart a script without a __main__ guard
        )
        return root
