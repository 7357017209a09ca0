"""The common TFDS builder: one example per annotation entry, read from the files of a data set."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, cast

import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines.datasets import annotations
from data_pipelines.datasets.layouts import get_layout
from data_pipelines.datasets.split import Split
from data_pipelines.images.image_source import MULTILINGUAL, AnyCall
from tipr_jax.languages import run_languages


@dataclasses.dataclass(kw_only=True)
class LanguageConfig(tfds.core.BuilderConfig):
    """Reads `{split}_reid_{language}.json` instead of the official annotation file.

    One prepared copy serves all runs in several languages, whichever languages they read.
    """

    name: str = MULTILINGUAL
    languages: tuple[str, ...]  # source first


class PersonRetrievalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Reads `manual_dir/<official directory>`, writes array_record files in annotation order.

    Example: image (the file's bytes as they are), captions, person_id (train: 0-based), image_id
    (position in the split), path (below imgs/). Example i of a split has image_id i. A config with
    languages (`LanguageConfig`) adds translations: {language: captions of the example in it}.

    A subclass is called `Builder`, lives in `<name>/<name>_dataset_builder.py` and sets VERSION.
    Homepage and licence stand in its row of `datasets.layouts`.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the official directory into manual_dir; see the README."

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        # array_record is the TFDS format with random access, which an exact global shuffle needs.
        super().__init__(file_format=file_format or "array_record", **kwargs)

    @property
    def layout_name(self) -> str:
        """Key of the layout that the files have."""
        return self.name

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the config, source first; (): the official annotation file."""
        return run_languages(getattr(self.builder_config, "languages", ()))

    @property
    def licence(self) -> str:
        """What the owners of the data allow."""
        return get_layout(self.layout_name).licence

    def _info(self) -> tfds.core.DatasetInfo:
        layout = get_layout(self.layout_name)
        captions = tfds.features.Sequence(tfds.features.Text())
        translations = {language: captions for language in self.languages[1:]}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Text-to-image person retrieval, layout of {layout.title}.",
            homepage=layout.homepage,
            license=self.licence,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "captions": captions,
                    "person_id": tf.int32,
                    "image_id": tf.int32,
                    "path": tfds.features.Text(),
                }
                | ({"translations": translations} if translations else {})
            ),
            disable_shuffling=True,
        )

    def _data_root(self, dl_manager: tfds.download.DownloadManager) -> str:
        """The directory that contains the official directory."""
        return os.fspath(dl_manager.manual_dir)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = self._data_root(dl_manager)
        _, image_root = annotations.find_directory(self.layout_name, root)
        splits = annotations.load_dataset(self.layout_name, root, self.languages)
        return {
            name: self._generate_examples(split, image_root)
            for name, split in splits.items()
            if split.image_path
        }

    def _generate_examples(
        self, split: Split, image_root: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        captions = _by_image(split, split.caption)
        translations = {
            language: _by_image(split, texts) for language, texts in split.translation.items()
        }
        for image_id, path in enumerate(split.image_path):
            example = {
                "image": path,
                "captions": captions[image_id],
                "person_id": int(split.image_person_id[image_id]),
                "image_id": image_id,
                "path": os.path.relpath(path, image_root),
            }
            if translations:
                example["translations"] = {
                    language: texts[image_id] for language, texts in translations.items()
                }
            yield image_id, example

    def _as_dataset(
        self,
        split: Any,
        decoders: Any = None,
        read_config: Any = None,
        shuffle_files: bool = False,
    ) -> tf.data.Dataset:
        """tf.data in file order over array_record, which TFDS itself offers as data source only."""
        as_data_source = cast(AnyCall, self.as_data_source)  # TFDS hides its parameters
        records = as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

        def example(index: tf.Tensor) -> Any:
            record = tf.numpy_function(records.__getitem__, [index], tf.string)
            record = tf.ensure_shape(record, [])
            features = self.info.features
            assert isinstance(features, tfds.features.FeaturesDict)
            return features.deserialize_example(record, decoders=decoders)

        return tf.data.Dataset.range(len(records)).map(example)


def _by_image(split: Split, captions: tuple[str, ...]) -> list[list[str]]:
    """The captions of each image; `captions` are one to one with `split.caption`."""
    of_image: list[list[str]] = [[] for _ in split.image_path]
    for caption, image_id in zip(captions, split.caption_image_id, strict=True):
        of_image[image_id].append(caption)
    return of_image
