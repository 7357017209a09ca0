"""RSTPReid as a TFDS data set: importing this package registers `tfds.load("rstp_reid")`."""

from data_pipelines.tfds.rstp_reid.rstp_reid_dataset_builder import Builder

__all__ = ["Builder"]
