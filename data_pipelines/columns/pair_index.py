"""Which pair of the train split a row is."""

import numpy as np

from data_pipelines.columns.source import ColumnSource, DrawnColumns
from tipr_jax.batch import PairIndex


def draw(spec: PairIndex, source: ColumnSource) -> DrawnColumns:
    """pair_id int32 [b]: the index into `split.caption`."""
    return lambda rows, epoch, places: {"pair_id": rows.astype(np.int32)}
