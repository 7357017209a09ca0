"""What the functions that draw columns are given, and what they give back."""

import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipelines.datasets.split import Split
from tipr_jax.text import Tokenizer

# (rows int [b] of the split, epoch, places int [b] of the rows in the order of the epoch, counted
# over all processes) -> the columns of these rows, each [b, ...].
DrawnColumns = Callable[[np.ndarray, int, np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ColumnSource:
    """Everything that the draws of a column may depend on, beside the row, epoch and place.

    split: the train split; a row is one of its captions.
    tokenizer: (texts, length) -> int32 [N, length].
    text_length: L, tokens per text.
    batch_size: rows of a global batch.
    seed: of the draws.
    dataset: `data.name`.
    root: the directory that contains the data set.
    languages: of the run, the source first; () in a data set of one language.
    """

    split: Split
    tokenizer: Tokenizer
    text_length: int
    batch_size: int
    seed: int
    dataset: str
    root: str
    languages: tuple[str, ...] = ()
