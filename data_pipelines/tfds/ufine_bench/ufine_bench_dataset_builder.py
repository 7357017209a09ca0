"""TFDS builder of UFineBench (how to obtain it: README.md beside this file)."""

import tensorflow_datasets as tfds

from data_pipelines.tfds.base import PersonRetrievalBuilder


class Builder(PersonRetrievalBuilder):
    """UFineBench under manual_dir, in languages only, so it needs a `LanguageConfig`."""

    VERSION = tfds.core.Version("1.0.0")
