"""UFineBench as a TFDS data set: importing this package registers its builder "ufine_bench"."""

from data_pipelines.tfds.ufine_bench.ufine_bench_dataset_builder import Builder

__all__ = ["Builder"]
