"""Where the pixels of a split come from: image files, a prepared TFDS copy, or a cache in memory.

A source is a function from image ids, int [b], to uint8 [b, H, W, 3]; the id -1 (padding) gives a
black image. Every source decodes and resizes with `tipr_jax.preprocess.image`, so all of them give
exactly the same pixels.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tqdm

from data_pipelines.annotations import Split
from tipr_jax.preprocess import image as preprocess

ImageSource = Callable[[np.ndarray], np.ndarray]
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

    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without the GIL
    if len(split.image_path) * np.prod(image_size) * 3 <= cache_mb * 2**20:
        every = np.append(np.arange(len(split.image_path)), -1)
        bar = f"decode {split.name} images"
        return _decode(read, pool, image_size, every, bar).__getitem__  # [-1] is the black one
    return functools.partial(_decode, read, pool, image_size)


def _decode(
    read: Callable[[int], np.ndarray],
    pool: concurrent.futures.Executor,
    image_size: tuple[int, int],
    image_id: np.ndarray,
    progress: str = "",
) -> np.ndarray:
    """uint8 [b, H, W, 3] of image_id int [b], decoded on all cores; `progress` names a bar."""
    images = np.zeros((len(image_id), *image_size, 3), np.uint8)

    def fill(row: int) -> None:
        if image_id[row] >= 0:
            images[row] = read(image_id[row])

    rows = [pool.submit(fill, row) for row in range(len(image_id))]
    bar = tqdm.tqdm(rows, progress, unit="img", leave=False, disable=None if progress else True)
    try:
        for row in bar:
            row.result()
    finally:
        for row in rows:  # the first unreadable image ends the run
            row.cancel()
    return images


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
