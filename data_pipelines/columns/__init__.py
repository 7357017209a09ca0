"""What a batch holds besides images and captions: one file per column spec of `tipr_jax.batch`.

A method asks for columns by specs; `draw_columns(spec, source)` chooses by the type of the spec who
draws them. A spec that is defined elsewhere, next to a method of your own for example, joins with

    @draw_columns.register
    def _(spec: MySpec, source: ColumnSource) -> DrawnColumns:
        def draw(rows, epoch, places):
            return {"my_column": ...}
        return draw
"""

import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.columns import (
    masked_patches,
    masked_words,
    pair_index,
    text_levels,
    translations,
)
from data_pipelines.columns.source import ColumnSource, DrawnColumns
from tipr_jax.batch import (
    ColumnSpec,
    MaskedPatches,
    MaskedWords,
    PairIndex,
    TextLevels,
    Translations,
    columns_of,
)

__all__ = ["ColumnSource", "DrawnColumns", "draw_all", "draw_columns"]


@functools.singledispatch
def draw_columns(spec: ColumnSpec, source: ColumnSource) -> DrawnColumns:
    """The function that draws the columns of `spec`.

    It is called with rows of the split, never with padding rows, and must give the columns that
    `spec.arrays` names. It must be a pure function of its arguments, so that a run can resume at
    any step and be shared among processes; `random_streams.generator` makes such draws easy.

    Raises:
      ValueError: nothing draws this type of spec, or the data lack what the spec needs.
    """
    raise ValueError(
        f"no function draws the columns {type(spec).__name__}; write one and register it with "
        "@data_pipelines.columns.draw_columns.register"
    )


draw_columns.register(TextLevels, text_levels.draw)
draw_columns.register(MaskedWords, masked_words.draw)
draw_columns.register(Translations, translations.draw)
draw_columns.register(MaskedPatches, masked_patches.draw)
draw_columns.register(PairIndex, pair_index.draw)


def draw_all(specs: Sequence[ColumnSpec], source: ColumnSource) -> DrawnColumns:
    """A function that draws the columns of all specs.

    Rows may be -1 there: padding rows, which hold `Column.padding`.

    Raises:
      ValueError: as `draw_columns`; two specs ask for a column of the same name; or (in a draw)
        what was drawn is not what a spec names.
    """
    expected = columns_of(specs, source.text_length)
    functions = [draw_columns(spec, source) for spec in specs]

    def draw(rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        real = rows >= 0
        drawn: dict[str, np.ndarray] = {}
        for function in functions if real.any() else ():
            drawn |= function(rows[real], epoch, places[real])
        if drawn and drawn.keys() != expected.keys():
            raise ValueError(f"the columns {sorted(drawn)} were drawn, expected {sorted(expected)}")
        out = {}
        for name, column in expected.items():
            out[name] = np.full((len(rows), *column.shape), column.padding, column.dtype)
            if drawn:
                out[name][real] = drawn[name]
        return out

    return draw
