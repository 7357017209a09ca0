"""Where the pixels of a split come from: image files, a prepared TFDS copy, or a cache in memory.

A source is a function `image_id -> uint8 [H, W, 3]`. Every source decodes and resizes with
`tipr_jax.preprocess.image`, so all of them give exactly the same pixels.
"""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tqdm

from data_pipelines.annotations import Split
from tipr_jax.preprocess import image as preprocess

ImageSource = Callable[[int], np.ndarray]
DEFAULT_CACHE_MB = 1024


def image_source(split: Split, data_cfg: Any) -> ImageSource:
    """The source a config asks for; one per split and process, so that a cache is filled once.

    Optional config fields: `tfds_dir` (default "": read the image files), `cache_mb` (default 1024:
    a split whose resized images fit is decoded once and kept in memory) and `allow_truncated`
    (default False; True accepts files that end early, as the released IRRA does).
    """
    return _image_source(
        split,
        tuple(data_cfg.image_size),
        data_cfg.name,
        getattr(data_cfg, "tfds_dir", ""),
        getattr(data_cfg, "cache_mb", DEFAULT_CACHE_MB),
        getattr(data_cfg, "allow_truncated", False),
    )


@functools.lru_cache(maxsize=3)  # train, val, test
def _image_source(
    split: Split,
    image_size: tuple[int, int],
    name: str,
    tfds_dir: str,
    cache_mb: float,
    allow_truncated: bool,
) -> ImageSource:
    encoded = _tfds_bytes(split, name, tfds_dir) if tfds_dir else split.image_path.__getitem__

    def read(image_id: int) -> np.ndarray:
        path = split.image_path[image_id]
        image = preprocess.decode(encoded(image_id), name=path, allow_truncated=allow_truncated)
        return preprocess.resize(image, image_size)

    if len(split.image_path) * np.prod(image_size) * 3 <= cache_mb * 2**20:
        return _cached(read, split, image_size)
    return read


def _cached(read: ImageSource, split: Split, image_size: tuple[int, int]) -> ImageSource:
    """Decodes every image once, on all cores, into one array."""
    count = len(split.image_path)
    images = np.empty((count, *image_size, 3), np.uint8)

    def fill(image_id: int) -> None:
        images[image_id] = read(image_id)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(fill, range(count))
        bar = tqdm.tqdm(
            done, f"decode {split.name} images", count, unit="img", leave=False, disable=None
        )
        try:
            collections.deque(bar, maxlen=0)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the first unreadable image ends the run
            raise
    return images.__getitem__


def _tfds_bytes(split: Split, name: str, tfds_dir: str) -> Callable[[int], bytes]:
    """Encoded image bytes of image_id from the TFDS copy prepared under `tfds_dir`."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(_prepared_directory(name, tfds_dir))
        records = builder.as_data_source(split.name, decoders={"image": tfds.decode.SkipDecoding()})
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"no prepared {name} with a {split.name} split under data.tfds_dir={tfds_dir} "
            f"({reason}); prepare it (data_pipelines/{name}/README.md) or clear "
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


def _prepared_directory(name: str, tfds_dir: str) -> str:
    """tfds_dir/name/version, the newest version."""
    parent = os.path.join(os.path.expanduser(tfds_dir), name)
    versions = sorted(entry for entry in os.listdir(parent) if entry[0].isdigit())
    if not versions:
        raise ValueError(f"{parent} is empty")
    return os.path.join(parent, versions[-1])
