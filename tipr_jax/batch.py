"""The contract between data and models: which arrays a batch holds, their shapes and dtypes.

Axis letters used throughout the package: B images (global batch), T texts, L tokens, P patches,
H/W image height and width, D width, C shared embedding, V vocabulary, I identities.

| key       | dtype | shape     | meaning                                                          |
|-----------|-------|-----------|------------------------------------------------------------------|
| image     | uint8 | [B,H,W,3] | RGB, resized, not normalised (that happens on the device)        |
| text_ids  | int32 | [B,L]     | start, tokens, end, padding (the tokenizer's id); not masked     |
| person_id | int32 | [B]       | identity; 0-based and contiguous in training                     |
| image_id  | int32 | [B]       | index of the annotation entry (captions of one image share it)   |
| valid     | bool  | [B]       | False on padding rows (the last, partial batch of an epoch)      |

A method may ask for more columns: `Method.columns(config)` returns specs, the dataclasses at the
end of this file. Each says by `arrays` which columns it adds, and holds the parameters of the law
by which the input pipeline (`data_pipelines.columns`) draws them anew in every epoch.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

Batch = dict[str, np.ndarray]

IGNORED = -100  # label of a place where no word is masked


class Values(enum.Enum):
    """What the numbers of a column are."""

    TEXT = "token ids of a text: start, tokens, end, padding"
    TOKEN = "one token id, or IGNORED"
    NUMBER = "an integer within bounds"
    FLAG = "true or false"


class Column(NamedTuple):
    """One array of a batch.

    shape and dtype describe a row. bounds: [low, high) of a NUMBER. padding: what the padding
    rows of a batch hold.
    """

    shape: tuple[int, ...]
    dtype: type[np.generic]
    values: Values
    bounds: tuple[int, int] = (0, 1)
    padding: int = 0


class ColumnSpec(Protocol):
    """What a method asks the input pipeline for."""

    def arrays(self, text_length: int) -> dict[str, Column]:
        """The columns by their name in the batch; text_length is L, the tokens of a text."""
        ...


def _text(text_length: int) -> Column:
    return Column((text_length,), np.int32, Values.TEXT)


def common_columns(image_size: tuple[int, int], text_length: int) -> dict[str, Column]:
    """The columns that every training batch has."""
    number = Column((), np.int32, Values.NUMBER, padding=-1)
    return {
        "image": Column((*image_size, 3), np.uint8, Values.NUMBER, (0, 256)),
        "text_ids": _text(text_length),
        "person_id": number,
        "image_id": number,
        "valid": Column((), np.bool_, Values.FLAG),
    }


def columns_of(specs: Sequence[ColumnSpec], text_length: int) -> dict[str, Column]:
    """The columns of several specs.

    Raises:
      ValueError: two specs ask for a column of the same name.
    """
    out: dict[str, Column] = {}
    for spec in specs:
        arrays = spec.arrays(text_length)
        if twice := sorted(set(out) & set(arrays)):
            raise ValueError(f"the columns {twice} are asked for twice, again by {spec}")
        out |= arrays
    return out


def abstract_batch(
    batch_size: int,
    image_size: tuple[int, int],
    text_length: int,
    specs: Sequence[ColumnSpec] = (),
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, for tracing without data."""
    columns = common_columns(image_size, text_length) | columns_of(specs, text_length)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *column.shape), column.dtype)
        for name, column in columns.items()
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
    specs: Sequence[ColumnSpec] = (),
    seed: int = 0,
) -> Batch:
    """A random batch that honours the contract (benchmarks, memory estimates, tests)."""
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.integers(0, 256, (batch_size, *image_size, 3), dtype=np.uint8),
        "text_ids": _synthetic_texts(rng, (batch_size, text_length), vocab_size),
        "person_id": rng.integers(0, num_persons, batch_size).astype(np.int32),
        "image_id": np.arange(batch_size, dtype=np.int32),
        "valid": np.ones(batch_size, bool),
    }
    columns = columns_of(specs, text_length)
    return batch | {
        name: _synthetic_column(rng, column, batch_size, vocab_size)
        for name, column in columns.items()
    }


def _synthetic_texts(
    rng: np.random.Generator, shape: tuple[int, ...], vocab_size: int
) -> np.ndarray:
    rows, length = shape
    words = rng.integers(3, max(4, length - 2), rows)
    text_ids = rng.integers(1, vocab_size - 3, (rows, length))
    text_ids[np.arange(length)[None] > words[:, None]] = 0
    text_ids[:, 0] = vocab_size - 2
    text_ids[np.arange(rows), words] = vocab_size - 1
    return text_ids.astype(np.int32)


def _synthetic_column(
    rng: np.random.Generator, column: Column, rows: int, vocab_size: int
) -> np.ndarray:
    shape = (rows, *column.shape)
    if column.values is Values.FLAG:
        return rng.random(shape) < 0.5
    if column.values is Values.TEXT:
        return _synthetic_texts(rng, shape, vocab_size)
    bounds = (0, vocab_size) if column.values is Values.TOKEN else column.bounds
    return rng.integers(*bounds, shape).astype(column.dtype)


@dataclasses.dataclass(frozen=True)
class TextLevels:
    """Shorter texts about the person of a caption: word_ids, phrase_ids int32 [B,L].

    levels: some of "word" (a few attributes) and "phrase" (a clause). IVT, section 3.2.
    fresh_repeats: a pair that a sampler shows twice in an epoch has texts of its own each time.
    """

    levels: tuple[str, ...] = ("word", "phrase")
    fresh_repeats: bool = False

    def arrays(self, text_length: int) -> dict[str, Column]:
        return {f"{level}_ids": _text(text_length) for level in self.levels}


@dataclasses.dataclass(frozen=True)
class MaskedWords:
    """The caption with masked words, for masked language modelling; M = max_masks.

    mlm_ids int32 [B,L], the text with the masks; mlm_positions int32 [B,M], the masked places,
    filled up with 0; mlm_labels int32 [B,M], the true ids there, filled up with IGNORED.

    The defaults are the law of IVT's pre-training. share: how much of the tokens, both ends
    included; span_probability: of masking 2 to span_max neighbours instead of one token;
    whole_words: such spans are extended to whole words; mask_probability: a chosen token becomes
    the mask token; random_probability: of those that do not, any token of the vocabulary.
    """

    share: float = 0.25
    max_masks: int = 8
    span_probability: float = 0.2
    span_max: int = 3
    whole_words: bool = True
    mask_probability: float = 0.8
    random_probability: float = 0.5

    def arrays(self, text_length: int) -> dict[str, Column]:
        place = Column((self.max_masks,), np.int32, Values.NUMBER, (0, text_length))
        label = Column((self.max_masks,), np.int32, Values.TOKEN, padding=IGNORED)
        return {"mlm_ids": _text(text_length), "mlm_positions": place, "mlm_labels": label}


@dataclasses.dataclass(frozen=True)
class Translations:
    """The caption in another language: target_ids int32 [B,L], target_language int32 [B].

    Every row draws one of the run's target languages; target_language is its place among all
    languages of the run, from 1 on (0 is the language of text_ids). With masked_words also the
    columns of `MaskedWords` for that text, named target_mlm_ids, target_mlm_positions and
    target_mlm_labels.
    """

    masked_words: MaskedWords | None = None

    def arrays(self, text_length: int) -> dict[str, Column]:
        language = Column((), np.int32, Values.NUMBER, (1, 2), padding=1)
        out = {"target_ids": _text(text_length), "target_language": language}
        masked = self.masked_words.arrays(text_length) if self.masked_words else {}
        return out | {f"target_{name}": column for name, column in masked.items()}


@dataclasses.dataclass(frozen=True)
class MaskedPatches:
    """Which patches of the image are hidden: patch_mask bool [B,P], row-major, True is hidden.

    law: "block" (rectangles), "random" or "grid" (a chessboard); grid: rows and columns of patches;
    ratio: share of the patches to hide; row_group: so many consecutive rows share a mask.
    """

    law: str
    grid: tuple[int, int]
    ratio: float
    row_group: int = 1

    def arrays(self, text_length: int) -> dict[str, Column]:
        return {"patch_mask": Column((math.prod(self.grid),), np.bool_, Values.FLAG)}


@dataclasses.dataclass(frozen=True)
class PairIndex:
    """Which (image, caption) pair of the train split a row is: pair_id int32 [B], padding -1.

    Methods that keep a value per pair (`models.method.EpochHook`) find it by this number.
    """

    def arrays(self, text_length: int) -> dict[str, Column]:
        return {"pair_id": Column((), np.int32, Values.NUMBER, padding=-1)}
