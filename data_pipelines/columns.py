"""The batch columns that a method draws on the host anew in every epoch, by `config.data.columns`.

Each entry of COLUMNS makes a `pipeline.DrawnColumns` of the train split; see
`tipr_jax.models.Method.columns` for what a model asks for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines import attributes
from data_pipelines.annotations import Split
from data_pipelines.pipeline import DrawnColumns
from data_pipelines.span_masking import MaskedColumns
from data_pipelines.text_levels import LevelColumns, LevelTexts
from data_pipelines.two_languages import TwoLanguageColumns


def text_levels(split: Split, tokenizer: Callable, config: Any, root: str) -> DrawnColumns:
    """word_ids and phrase_ids of IVT (spec ivt §3.2)."""
    known = None
    if config.data.name == "cuhk_pedes":  # the others' word level is a clause
        known = attributes.load_or_write(root, {"train": split})["train"]
    texts = LevelTexts(split, known, config.seed)
    return _of_row(LevelColumns(texts, tokenizer, config.data.text_length))


def masked_words(split: Split, tokenizer: Callable, config: Any, root: str) -> DrawnColumns:
    """mlm_ids, mlm_positions and mlm_labels of IVT's pre-training (spec ivt §8)."""
    length = config.data.text_length
    return _of_row(MaskedColumns(split.caption, tokenizer, length, config.seed))


def two_languages(split: Split, tokenizer: Callable, config: Any, root: str) -> DrawnColumns:
    """Target captions, masked words of both languages and patch masks of Bi-IRRA."""
    return TwoLanguageColumns(split, tokenizer, config)


def _of_row(columns: Callable[[np.ndarray, int], dict[str, np.ndarray]]) -> DrawnColumns:
    """Columns of a row and epoch, wherever in the epoch the row stands."""
    return lambda rows, epoch, places: columns(rows, epoch)


COLUMNS: dict[str, Callable[..., DrawnColumns]] = {
    "text_levels": text_levels,
    "masked_words": masked_words,
    "two_languages": two_languages,
}


def make_columns(split: Split, tokenizer: Callable, config: Any, root: str) -> DrawnColumns | None:
    """The drawn columns that `config.data.columns` names, "" is none; root: of the data set.

    Raises:
      ValueError: an unknown name, or a config that they cannot be drawn with.
    """
    name = config.data.columns
    if not name:
        return None
    if name not in COLUMNS:
        raise ValueError(f"data.columns is {name!r}, expected one of {sorted(COLUMNS)} or ''")
    return COLUMNS[name](split, tokenizer, config, root)
