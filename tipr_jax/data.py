"""What training and evaluation ask of the data; `data_pipelines.data_module.DataModule` gives it.

Any object with these attributes can be trained on: the core imports no input pipeline.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from tipr_jax.batch import Batch, ColumnSpec
from tipr_jax.text import Tokenizer


class Split(Protocol):
    """The annotations of one split; an image id is an index into `image_path`."""

    @property
    def name(self) -> str:
        """train, val or test."""
        ...

    @property
    def image_path(self) -> Sequence[str]:
        """Absolute path of every image, [G]. Splits with the same images share the object."""
        ...

    @property
    def image_box(self) -> np.ndarray | None:
        """int32 [G,4]: x, y, width, height of the person in each image, 0 wide where it is all of
        the image; None: it always is.
        """
        ...

    @property
    def image_person_id(self) -> np.ndarray:
        """int32 [G]; in the train split 0, 1, 2, ... without a gap."""
        ...

    @property
    def caption(self) -> Sequence[str]:
        """Every caption, [Q]; several may describe one image."""
        ...

    @property
    def caption_image_id(self) -> np.ndarray:
        """int32 [Q]: the image that each caption describes."""
        ...

    @property
    def caption_person_id(self) -> np.ndarray:
        """int32 [Q]: the person that each caption describes."""
        ...

    @property
    def num_persons(self) -> int:
        """Number of distinct persons; in the train split the classes of an identity loss."""
        ...

    @property
    def language(self) -> str:
        """The language of the captions; "" in a data set of one language."""
        ...


class Data(Protocol):
    """The splits of a data set, and batches of them as `tipr_jax.batch` describes.

    rows, int [b]: which rows of each global batch to read, because a process needs only the rows
    that its devices hold; None: all rows.
    """

    @property
    def splits(self) -> Mapping[str, Split]:
        """train, val, test; with several languages also val_zh, test_zh, ... per target."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Set before the first batch with texts is asked for."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the run, the source first; () for a data set of one language."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of an epoch."""
        ...

    @property
    def num_pairs(self) -> int:
        """(image, caption) pairs of the train split."""
        ...

    def evaluation_splits(self, wanted: Sequence[str]) -> list[str]:
        """The wanted splits that exist; "val" and "test" stand for every language."""
        ...

    def train_batches(
        self,
        start_step: int,
        rows: np.ndarray | None = None,
        columns: Sequence[ColumnSpec] = (),
    ) -> Iterator[Batch]:
        """Endless training batches from a global step on: a pure function of (seed, step)."""
        ...

    def pair_pass(
        self,
        epoch: int,
        rows: np.ndarray | None = None,
        columns: Sequence[ColumnSpec] = (),
    ) -> Iterator[Batch]:
        """Every training pair once, in an order of its own: a pure function of (seed, epoch)."""
        ...

    def image_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Every image of a split once, in order; the last batch is padded."""
        ...

    def text_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Every caption of a split once, in order; the last batch is padded."""
        ...
