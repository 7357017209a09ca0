"""TFDS builder of CUHK-PEDES (how to obtain it: README.md beside this file)."""

import tensorflow_datasets as tfds

from data_pipelines.tfds.base import PersonRetrievalBuilder


class Builder(PersonRetrievalBuilder):
    """CUHK-PEDES from its official layout under manual_dir; see `PersonRetrievalBuilder`."""

    VERSION = tfds.core.Version("1.0.0")
