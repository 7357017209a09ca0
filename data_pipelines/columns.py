"""What a batch holds besides images and captions: one function per column spec of `tipr_jax.batch`.

`draw_columns(spec, source)` chooses by the type of the spec. A spec that is defined elsewhere joins
with `@draw_columns.register`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines import attributes
from data_pipelines.annotations import Split
from data_pipelines.patch_masks import PatchMasks
from data_pipelines.span_masking import MaskedColumns
from data_pipelines.text_levels import LevelColumns, LevelTexts
from data_pipelines.two_languages import TranslatedColumns
from tipr_jax.batch import (
    ColumnSpec,
    MaskedPatches,
    MaskedWords,
    PairIndex,
    TextLevels,
    Translations,
)

# (rows int [b], -1 for padding; epoch; places int [b] of the rows in the order of the epoch, across
# processes) -> the columns of the rows.
DrawnColumns = Callable[[np.ndarray, int, np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ColumnSource:
    """What the draws of a column may read.

    split: the train split; tokenizer: (texts, length) -> int32 [N, length]; languages: of the run,
    the source first, () for one language; name and root: of the data set.
    """

    split: Split
    tokenizer: Callable[[Sequence[str], int], np.ndarray]
    text_length: int
    batch_size: int
    seed: int
    languages: tuple[str, ...]
    name: str
    root: str


@functools.singledispatch
def draw_columns(spec: ColumnSpec, source: ColumnSource) -> DrawnColumns:
    """The function that draws the columns of `spec`.

    Raises:
      ValueError: nothing draws this type of spec; the data lacks what the spec needs.
    """
    raise ValueError(
        f"no input pipeline for the columns {type(spec).__name__}; write one with "
        "@data_pipelines.columns.draw_columns.register"
    )


def _of_row(columns: Callable[[np.ndarray, int], dict[str, np.ndarray]]) -> DrawnColumns:
    """Columns of a row and epoch, wherever in the epoch the row stands."""
    return lambda rows, epoch, places: columns(rows, epoch)


@draw_columns.register
def _(spec: TextLevels, source: ColumnSource) -> DrawnColumns:
    known = None
    if source.name == attributes.NAME:  # in the other data sets the word level is a clause
        known = attributes.load_or_write(source.root, {"train": source.split})["train"]
    texts = LevelTexts(source.split, known, source.seed)
    return _of_row(LevelColumns(texts, source.tokenizer, source.text_length, spec.levels))


@draw_columns.register
def _(spec: MaskedWords, source: ColumnSource) -> DrawnColumns:
    return _of_row(
        MaskedColumns(
            source.split.caption,
            source.tokenizer,
            source.text_length,
            source.seed,
            spec,
            source.split.language,
        )
    )


@draw_columns.register
def _(spec: Translations, source: ColumnSource) -> DrawnColumns:
    return _of_row(
        TranslatedColumns(
            source.split,
            source.tokenizer,
            source.text_length,
            source.seed,
            source.languages,
            spec,
        )
    )


@draw_columns.register
def _(spec: MaskedPatches, source: ColumnSource) -> DrawnColumns:
    group = min(spec.row_group, source.batch_size)
    masks = PatchMasks(spec.law, spec.grid, spec.ratio, group, source.seed)

    def draw(rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        return {"patch_mask": masks(epoch, places) & (rows >= 0)[:, None]}

    return draw


@draw_columns.register
def _(spec: PairIndex, source: ColumnSource) -> DrawnColumns:
    return _of_row(lambda rows, epoch: {"pair_id": rows.astype(np.int32)})
