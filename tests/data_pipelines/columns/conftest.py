"""A source of columns around the captions of a test."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from data_pipelines.columns import ColumnSource
from data_pipelines.datasets.split import Split


@pytest.fixture
def make_source() -> Callable[..., ColumnSource]:
    """make_source(captions, tokenizer=None, language="", translation={}, **source fields)."""

    def make(
        captions: Sequence[str],
        tokenizer: Any = None,
        *,
        language: str = "",
        translation: dict[str, Sequence[str]] | None = None,
        **fields: Any,
    ) -> ColumnSource:
        ids = np.arange(len(captions), dtype=np.int32)
        paths = ("/x.png",) * len(captions)
        split = Split("train", paths, ids, tuple(captions), ids, language, translation or {})
        defaults = dict(text_length=16, batch_size=8, seed=0, dataset="rstp_reid", root="")
        return ColumnSource(split=split, tokenizer=tokenizer, **(defaults | fields))

    return make
