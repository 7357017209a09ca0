"""Where the pixels of a split come from: the decoded cache, image files or a prepared TFDS copy.

A source is a function from image ids, int [b], to uint8 [b, H, W, 3]; the id -1 (padding) gives a
black image. Every source decodes and resizes with `tipr_jax.preprocess.image`, so all of them give
exactly the same pixels.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from data_pipelines.data_config import ImageConfig
from data_pipelines.datasets.split import Split
from data_pipelines.images.decoded_cache import open_cache
from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.box import box_at, cut_out

MULTILINGUAL = "multilingual"  # TFDS config of copies that were prepared from several languages
ImageSource = Callable[[np.ndarray], np.ndarray]
AnyCall = Callable[..., Any]


def uses_cache(data_cfg: ImageConfig) -> bool:
    """Whether images come from the decoded cache, so that reading them needs no TensorFlow."""
    return data_cfg.cache and not data_cfg.tfds_dir


def image_source(split: Split, data_cfg: ImageConfig) -> ImageSource:
    """The source a config asks for.

    Args:
      split: at least one image.
      data_cfg: `tfds_dir` "" means no TFDS copy; `cache` and `cache_dir` are explained in
        `decoded_cache`; `allow_truncated` True accepts files that end early, as the released IRRA
        does; `train_resize` is the filter for the train split, `test_resize` for other splits.

    Raises:
      FileNotFoundError, ValueError: as `open_cache`, or no prepared TFDS copy.
    """
    height, width = data_cfg.image_size
    image_size, truncated = (height, width), data_cfg.allow_truncated
    train = split.name == "train"
    resize_filter = data_cfg.train_resize if train else data_cfg.test_resize
    encoded = split.image_path.__getitem__
    if data_cfg.tfds_dir:
        encoded = _tfds_bytes(split, data_cfg.name, data_cfg.tfds_dir)

    def read(image_id: int) -> np.ndarray:
        path, box = split.image_path[image_id], box_at(split.image_box, image_id)
        image = preprocess.decode(
            encoded(image_id),
            name=path,
            size=None if box else image_size,  # a box is in pixels of the full size
            allow_truncated=truncated,
        )
        if box:
            try:
                image = cut_out(image, box, height / width)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        return preprocess.resize(image, image_size, resize_filter)

    if uses_cache(data_cfg):
        return open_cache(
            split,
            read,
            name=data_cfg.name,
            image_size=image_size,
            allow_truncated=truncated,
            resize_filter=resize_filter,
            cache_dir=data_cfg.cache_dir,
        )
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without the GIL
    return functools.partial(_decode, read, pool, image_size)


def _decode(
    read: Callable[[int], np.ndarray],
    pool: concurrent.futures.Executor,
    image_size: tuple[int, int],
    image_id: np.ndarray,
) -> np.ndarray:
    """uint8 [b, H, W, 3] of image_id int [b], decoded on all cores."""
    images = np.zeros((len(image_id), *image_size, 3), np.uint8)

    def fill(row: int) -> None:
        if image_id[row] >= 0:
            images[row] = read(image_id[row])

    for _ in pool.map(fill, range(len(image_id))):
        pass
    return images


def _tfds_bytes(split: Split, name: str, tfds_dir: str) -> Callable[[int], bytes]:
    """Encoded image bytes of image_id from the TFDS copy prepared under `tfds_dir`."""
    import tensorflow_datasets as tfds

    try:
        config = MULTILINGUAL if split.language else ""
        builder = tfds.builder_from_directory(_prepared_directory(name, config, tfds_dir))
        encoded = tfds.decode.SkipDecoding()
        as_data_source = cast(AnyCall, builder.as_data_source)  # TFDS hides its parameters
        records = as_data_source(split.name, decoders={"image": encoded})
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"no prepared {name} with a {split.name} split under data.tfds_dir={tfds_dir} "
            f"({reason}); prepare it (data_pipelines/tfds/{name}/README.md) or clear "
            "--config.data.tfds_dir"
        ) from None

    def read(image_id: int) -> bytes:
        record = records[image_id]
        path = record["path"].decode()
        if not split.image_path[image_id].endswith(path):
            raise ValueError(
                f"the TFDS copy under {tfds_dir} has {path} where the annotation file has "
                f"{split.image_path[image_id]}; prepare it again"
            )
        return record["image"]

    return read


def _prepared_directory(name: str, config: str, tfds_dir: str) -> str:
    """tfds_dir/name[/config]/version, the newest version."""
    parent = os.path.join(os.path.expanduser(tfds_dir), name, config)
    versions = sorted(entry for entry in os.listdir(parent) if entry[0].isdigit())
    if not versions:
        raise ValueError(f"{parent} is empty")
    return os.path.join(parent, versions[-1])
