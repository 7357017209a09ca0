"""The contract between data and models: which arrays a batch holds, their shapes and dtypes.

Axis letters used throughout the package: B images (global batch), T texts, L tokens, P patches,
H/W image height and width, D width, C shared embedding, V vocabulary, I identities.

| key       | dtype | shape     | meaning                                                          |
|-----------|-------|-----------|------------------------------------------------------------------|
| image     | uint8 | [B,H,W,3] | RGB, resized, not normalised (that happens on the device)        |
| text_ids  | int32 | [B,L]     | start, tokens, end, zero padding; clean (masked on the device)   |
| person_id | int32 | [B]       | identity; 0-based and contiguous in training                     |
| image_id  | int32 | [B]       | index of the annotation entry (captions of one image share it)   |
| valid     | bool  | [B]       | False on padding rows (the last, partial batch of an epoch)      |
"""

from collections.abc import Mapping

import jax
import numpy as np

Batch = dict[str, np.ndarray]

PER_ROW = {"person_id": np.int32, "image_id": np.int32, "valid": np.bool_}


def abstract_batch(
    batch_size: int, image_size: tuple[int, int], text_length: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, for tracing without data."""
    shapes = {
        "image": ((batch_size, *image_size, 3), np.uint8),
        "text_ids": ((batch_size, text_length), np.int32),
    } | {key: ((batch_size,), dtype) for key, dtype in PER_ROW.items()}
    return {key: jax.ShapeDtypeStruct(shape, dtype) for key, (shape, dtype) in shapes.items()}


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
    seed: int = 0,
) -> Batch:
    """A random batch that honours the contract (benchmarks, memory estimates, tests)."""
    rng = np.random.default_rng(seed)
    words = rng.integers(3, max(4, text_length - 2), batch_size)
    text_ids = rng.integers(1, vocab_size - 3, (batch_size, text_length))
    position = np.arange(text_length)
    text_ids[position[None] > words[:, None]] = 0
    text_ids[:, 0] = vocab_size - 2
    text_ids[np.arange(batch_size), words] = vocab_size - 1
    return {
        "image": rng.integers(0, 256, (batch_size, *image_size, 3), dtype=np.uint8),
        "text_ids": text_ids.astype(np.int32),
        "person_id": rng.integers(0, num_persons, batch_size).astype(np.int32),
        "image_id": np.arange(batch_size, dtype=np.int32),
        "valid": np.ones(batch_size, bool),
    }
