"""A column of the toy paper's own: how many words a caption has."""

import dataclasses

import numpy as np

from data_pipelines.columns import ColumnSource, DrawnColumns, draw_columns
from tipr_jax.batch import Column, Values


@dataclasses.dataclass(frozen=True)
class WordCount:
    """word_count int32 [B], at most `limit`; 0 on padding rows."""

    limit: int = 50

    def arrays(self, text_length: int) -> dict[str, Column]:
        return {"word_count": Column((), np.int32, Values.NUMBER, (1, self.limit + 1))}


@draw_columns.register
def _(spec: WordCount, source: ColumnSource) -> DrawnColumns:
    counts = [min(len(caption.split()), spec.limit) for caption in source.split.caption]
    every = np.array(counts, np.int32)
    return lambda rows, epoch, places: {"word_count": every[rows]}
