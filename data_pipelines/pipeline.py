"""Iterators over batches (the contract of `tipr_jax.batch`), as dicts of numpy arrays.

Rows come from `sampler`, pixels from `images.image_source`, columns beyond the common ones from
`columns`. Batches are prepared ahead of their use: from the decoded cache by threads, without
TensorFlow; from image files or a TFDS copy by tf.data. Both give the same batches. An iterator
tokenises its captions once, up front. Padding rows hold zeros, ids -1 and valid False.
"""

import atexit
import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_pipelines.columns.source import DrawnColumns
from data_pipelines.data_config import BatchConfig, ImageConfig
from data_pipelines.datasets.split import Split
from data_pipelines.images.image_source import ImageSource, image_source, uses_cache
from data_pipelines.sampler import batch_rows, epoch_batches, random_order, steps_per_epoch
from tipr_jax.batch import Batch
from tipr_jax.text import Tokenizer

__all__ = [
    "make_image_iter",
    "make_pair_iter",
    "make_text_iter",
    "make_train_iter",
    "steps_per_epoch",
]

# A row indexes these arrays; the row -1 (padding) picks their extra last element.
Table = dict[str, np.ndarray]
DrawnAt = Callable[[int, np.ndarray], Batch]  # (step, rows int [b]) -> more columns of the batch
PREFETCH_BATCHES = 2


def make_train_iter(
    split: Split,
    tokenizer: Tokenizer,
    data_cfg: BatchConfig,
    *,
    seed: int,
    start_step: int = 0,
    rows: np.ndarray | None = None,
    drawn: DrawnColumns | None = None,
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on, or the asked rows of each.

    The batch of a step is a function of (split, data_cfg, seed, step) alone, so starting at
    start_step costs no replay.

    Args:
      split: usually the train split; one row is one (image, caption) pair.
      tokenizer: (captions, length) -> int32 [N, length].
      data_cfg: `config.data`, or its fields named in `BatchConfig`.
      seed: of the order of the rows.
      start_step: global step of the first batch.
      rows: int [b], which rows of each global batch to read (a process needs only those of its
        devices); None: all rows.
      drawn: more columns of a batch, as `columns.draw_all` makes them.

    Yields:
      image uint8 [b,H,W,3], text_ids int32 [b,L], person_id int32 [b], image_id int32 [b],
      valid bool [b], where b is the number of `rows`, and the columns of `drawn`.

    Raises:
      ValueError: an impossible config, or (while iterating) an unreadable image.
      FileNotFoundError: (while iterating) a missing image.
    """
    steps = steps_per_epoch(split, data_cfg)
    mine = np.arange(data_cfg.batch_size) if rows is None else rows
    table = _caption_table(split, tokenizer, data_cfg)

    @functools.lru_cache(maxsize=1)
    def batches_of(epoch: int) -> np.ndarray:
        return epoch_batches(split, data_cfg, seed, epoch)

    def rows_at(step: int) -> np.ndarray:
        epoch, index = divmod(int(step), steps)
        return batches_of(epoch)[index, mine]

    def drawn_at(step: int, rows: np.ndarray) -> Batch:
        epoch, index = divmod(step, steps)
        return drawn(rows, epoch, index * data_cfg.batch_size + mine) if drawn else {}

    return _with_images(rows_at, range(start_step, 2**62), table, split, data_cfg, drawn_at)


def make_pair_iter(
    split: Split,
    tokenizer: Tokenizer,
    data_cfg: BatchConfig,
    *,
    seed: int,
    rows: np.ndarray | None = None,
    drawn: DrawnColumns | None = None,
) -> Iterator[Batch]:
    """Every pair of a split once, whatever the sampler; the last batch is padded.

    The random order is that of an epoch 0 with `seed`, and `drawn` is asked for that epoch.
    Arguments, shapes and errors as in `make_train_iter`.
    """
    mine = np.arange(data_cfg.batch_size) if rows is None else rows
    order = random_order(len(split.caption), seed, 0)
    batches = batch_rows(order, data_cfg.batch_size)[:, mine]

    def drawn_at(step: int, rows: np.ndarray) -> Batch:
        return drawn(rows, 0, step * data_cfg.batch_size + mine) if drawn else {}

    table, steps = _caption_table(split, tokenizer, data_cfg), range(len(batches))
    return _with_images(batches.__getitem__, steps, table, split, data_cfg, drawn_at)


def make_image_iter(
    split: Split,
    data_cfg: ImageConfig,
    batch_size: int,
    *,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every image of a split once, in order: image, person_id, image_id, valid; last batch padded.

    `batch_size` is global; `rows`, shapes and errors as in `make_train_iter`.
    """
    table = _table(split, np.arange(len(split.image_path), dtype=np.int32))
    mine = slice(None) if rows is None else rows
    batches = batch_rows(np.arange(len(split.image_path)), batch_size)[:, mine]
    return _with_images(batches.__getitem__, range(len(batches)), table, split, data_cfg)


def make_text_iter(
    split: Split,
    tokenizer: Tokenizer,
    data_cfg: BatchConfig,
    batch_size: int,
    *,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every caption of a split once, in order: text_ids, person_id, image_id, valid; last padded.

    `batch_size` is global; `rows` and shapes as in `make_train_iter`.
    """
    table = _caption_table(split, tokenizer, data_cfg)
    mine = slice(None) if rows is None else rows
    for chosen in batch_rows(np.arange(len(split.caption)), batch_size)[:, mine]:
        yield _take(table, chosen)


def _table(split: Split, image_id: np.ndarray) -> Table:
    """Ids of each row and of the padding row; image_id int32 [N]."""
    return {
        "person_id": np.append(split.image_person_id[image_id], np.int32(-1)),
        "image_id": np.append(image_id, np.int32(-1)),
        "valid": np.append(np.ones(len(image_id), bool), False),
    }


def _caption_table(split: Split, tokenizer: Tokenizer, data_cfg: BatchConfig) -> Table:
    text_ids = np.zeros((len(split.caption) + 1, data_cfg.text_length), np.int32)
    if split.caption:
        text_ids[:-1] = tokenizer(split.caption, data_cfg.text_length)
    return {"text_ids": text_ids} | _table(split, split.caption_image_id)


def _take(table: Table, rows: np.ndarray) -> Batch:
    return {key: column[rows] for key, column in table.items()}


def _nothing(step: int, rows: np.ndarray) -> Batch:
    return {}


def _with_images(
    rows_at: Callable[[int], np.ndarray],
    steps: range,
    table: Table,
    split: Split,
    data_cfg: ImageConfig,
    drawn_at: DrawnAt = _nothing,
) -> Iterator[Batch]:
    if uses_cache(data_cfg):
        return _from_cache(rows_at, steps, table, split, data_cfg, drawn_at)
    batches = _from_tf_data(rows_at, steps, table, split, data_cfg, drawn_at)
    _running.add(batches)
    return batches


def _from_cache(
    rows_at: Callable[[int], np.ndarray],
    steps: range,
    table: Table,
    split: Split,
    data_cfg: ImageConfig,
    drawn_at: DrawnAt,
) -> Iterator[Batch]:
    if not steps:
        return
    source = image_source(split, data_cfg)

    def batch_at(step: int) -> Batch:
        rows = rows_at(step)
        image = source(table["image_id"][rows])
        return {"image": image, **_take(table, rows), **drawn_at(step, rows)}

    # Two threads: while one waits for the disk, the other copies.
    pool = concurrent.futures.ThreadPoolExecutor(2)
    try:
        todo = iter(steps)
        ahead = collections.deque(
            pool.submit(batch_at, step) for step in itertools.islice(todo, PREFETCH_BATCHES)
        )
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(pool.submit(batch_at, step) for step in itertools.islice(todo, 1))
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _from_tf_data(
    rows_at: Callable[[int], np.ndarray],
    steps: range,
    table: Table,
    split: Split,
    data_cfg: ImageConfig,
    drawn_at: DrawnAt,
) -> Iterator[Batch]:
    try:
        tf, source = _tensorflow(), image_source(split, data_cfg)
    except ImportError as error:
        raise ValueError(
            "without data.cache, and with data.tfds_dir, images are read through TensorFlow, which "
            f"is not installed ({error}); pip install 'tipr_jax[data]' or set "
            "--config.data.cache=True"
        ) from None
    errors: list[Exception] = []

    def images_of(rows: np.ndarray) -> np.ndarray:
        try:
            return source(table["image_id"][rows])
        except (ValueError, OSError) as error:  # TensorFlow would wrap it in its own traceback
            errors.append(error)
            raise

    tensorflow_error = tf.errors.OpError
    try:
        images = _image_dataset(tf, rows_at, steps, images_of, data_cfg.image_size)
        for step, (rows, image) in zip(steps, images, strict=False):
            yield {"image": image, **_take(table, rows), **drawn_at(step, rows)}
    except tensorflow_error:
        if errors:
            raise errors[0] from None
        raise


def _image_dataset(
    tf: Any,
    rows_at: Callable[[int], np.ndarray],
    steps: range,
    images_of: ImageSource,
    image_size: tuple[int, int],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows int64 [b], image uint8 [b,H,W,3]) of each step, prepared ahead of its use."""
    local_batch = len(rows_at(steps.start)) if len(steps) else 1

    def batch_of(step: Any) -> tuple[Any, Any]:
        rows = tf.ensure_shape(tf.numpy_function(rows_at, [step], tf.int64), [local_batch])
        image = tf.numpy_function(images_of, [rows], tf.uint8, stateful=False)
        return rows, tf.ensure_shape(image, [local_batch, *image_size, 3])

    dataset = (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(batch_of, num_parallel_calls=2, deterministic=True)
        .prefetch(PREFETCH_BATCHES)
    )
    return dataset.as_numpy_iterator()


# A tf.data thread that still calls Python while the interpreter shuts down blocks it for ever. So
# iterators that are alive at exit are closed before that.
_running: weakref.WeakSet = weakref.WeakSet()


def _close_running() -> None:
    for batches in list(_running):
        with contextlib.suppress(ValueError):  # another thread is inside it
            batches.close()


@functools.cache
def _tensorflow() -> Any:
    """TensorFlow, quiet and kept off the accelerators, which belong to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # unused here, and it announces itself
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    atexit.register(_close_running)  # after TensorFlow's own handlers, hence run before them
    return tf
