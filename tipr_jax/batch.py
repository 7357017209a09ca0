"""The contract between data and models: which arrays a batch holds, their shapes and dtypes.

Axis letters used throughout the package: B images (global batch), T texts, L tokens, P patches,
H/W image height and width, D width, C shared embedding, V vocabulary, I identities.

| key       | dtype | shape     | meaning                                                          |
|-----------|-------|-----------|------------------------------------------------------------------|
| image     | uint8 | [B,H,W,3] | RGB, resized, not normalised (that happens on the device)        |
| text_ids  | int32 | [B,L]     | start, tokens, end, padding (0; of XLM-R 1); clean               |
| person_id | int32 | [B]       | identity; 0-based and contiguous in training                     |
| image_id  | int32 | [B]       | index of the annotation entry (captions of one image share it)   |
| valid     | bool  | [B]       | False on padding rows (the last, partial batch of an epoch)      |

A method may ask for more columns (`models.Method.columns`), drawn on the host anew in every epoch:
IVT's word_ids and phrase_ids [B,L], the masked words of its pre-training; Bi-IRRA's target_ids,
masked words and masked patches.
"""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import numpy as np

Batch = dict[str, np.ndarray]
Column = tuple[tuple[int, ...], type]  # shape of a row, dtype

PER_ROW = {"person_id": np.int32, "image_id": np.int32, "valid": np.bool_}


def abstract_batch(
    batch_size: int,
    image_size: tuple[int, int],
    text_length: int,
    columns: Mapping[str, Column] = MappingProxyType({}),
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, for tracing without data; `columns` are a method's."""
    shapes = {
        "image": ((*image_size, 3), np.uint8),
        "text_ids": ((text_length,), np.int32),
    } | {key: ((), dtype) for key, dtype in PER_ROW.items()}
    return {
        key: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for key, (shape, dtype) in (shapes | dict(columns)).items()
    }


def validate(batch: Mapping[str, np.ndarray], expected: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raises ValueError, naming key, given and expected, if `batch` breaks the contract."""
    if missing := sorted(set(expected) - set(batch)):
        raise ValueError(f"batch lacks {missing}; it has {sorted(batch)}")
    for key, want in expected.items():
        got = batch[key]
        if got.shape != want.shape or got.dtype != want.dtype:
            raise ValueError(
                f"batch['{key}'] is {got.dtype}{list(got.shape)}, "
                f"expected {want.dtype}{list(want.shape)}"
            )


def synthetic_batch(
    batch_size: int,
    image_size: tuple[int, int],
    text_length: int,
    *,
    vocab_size: int,
    num_persons: int,
    columns: Mapping[str, Column] = MappingProxyType({}),
    seed: int = 0,
) -> Batch:
    """A random batch that honours the contract (benchmarks, memory estimates, tests)."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (batch_size, *image_size, 3), dtype=np.uint8),
        "text_ids": _synthetic_texts(rng, batch_size, text_length, vocab_size),
        "person_id": rng.integers(0, num_persons, batch_size).astype(np.int32),
        "image_id": np.arange(batch_size, dtype=np.int32),
        "valid": np.ones(batch_size, bool),
    } | {
        key: _synthetic_column(rng, key, (batch_size, *shape), dtype, vocab_size)
        for key, (shape, dtype) in columns.items()
    }


def _synthetic_texts(rng: np.random.Generator, rows: int, length: int, vocab_size: int):
    words = rng.integers(3, max(4, length - 2), rows)
    text_ids = rng.integers(1, vocab_size - 3, (rows, length))
    text_ids[np.arange(length)[None] > words[:, None]] = 0
    text_ids[:, 0] = vocab_size - 2
    text_ids[np.arange(rows), words] = vocab_size - 1
    return text_ids.astype(np.int32)


def _synthetic_column(
    rng: np.random.Generator, key: str, shape: tuple[int, ...], dtype: type, vocab_size: int
) -> np.ndarray:
    """A column of a method; what its integers mean follows from the end of its name."""
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if key.endswith("_ids"):
        return _synthetic_texts(rng, *shape, vocab_size)
    bounds = {"positions": (0, shape[-1]), "labels": (0, vocab_size), "language": (1, 2)}
    return rng.integers(*bounds.get(key.rsplit("_", 1)[-1], (0, 1)), shape).astype(dtype)
