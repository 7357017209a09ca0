"""CUHK-PEDES as a TFDS data set: importing this package registers `tfds.load("cuhk_pedes")`."""

from data_pipelines.tfds.cuhk_pedes.cuhk_pedes_dataset_builder import Builder

__all__ = ["Builder"]
