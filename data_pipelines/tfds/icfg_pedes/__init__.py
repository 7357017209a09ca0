"""ICFG-PEDES as a TFDS data set: importing this package registers `tfds.load("icfg_pedes")`."""

from data_pipelines.tfds.icfg_pedes.icfg_pedes_dataset_builder import Builder

__all__ = ["Builder"]
