"""The fields of a run's config that `data_pipelines` reads; `configs/common.py` explains them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class ImageConfig(Protocol):
    """What decides where pixels come from and how they are resized."""

    name: str
    image_size: tuple[int, int]  # (H, W)
    tfds_dir: str
    cache: bool
    cache_dir: str
    allow_truncated: bool
    train_resize: str
    test_resize: str


class SamplerConfig(Protocol):
    """What decides the order of the training pairs."""

    batch_size: int  # global
    sampler: str
    num_instances: int
    last_batch: str


class BatchConfig(ImageConfig, SamplerConfig, Protocol):
    """What decides the batches of a given split."""

    text_length: int


class DataConfig(BatchConfig, Protocol):
    """`config.data`."""

    root: str
    generate: Mapping[str, Any]  # keyword arguments of `synth_pedes.generate.generate`
    source: str
    target: str
    languages: Sequence[str]
    empty_captions: str
    long_captions: str
    caption_lists: Sequence[str]
    image_root: str
    eval_name: str


class EvalConfig(Protocol):
    """`config.eval`."""

    batch_size: int


class RunConfig(Protocol):
    """The config of a run."""

    seed: int
    data: DataConfig
    eval: EvalConfig
