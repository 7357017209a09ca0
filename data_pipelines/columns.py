"""The batch columns that a method draws on the host anew in every epoch, by `config.data.columns`.

Each entry of COLUMNS makes a function (rows int [b], epoch) -> arrays of a batch from the train
split; see `tipr_jax.models.Method.columns` for what a model asks for.
"""

from collections.abc import Callable
from typing import Any

from data_pipelines import attributes
from data_pipelines.annotations import Split
from data_pipelines.pipeline import DrawnColumns
from data_pipelines.span_masking import MaskedColumns
from data_pipelines.text_levels import LevelColumns, LevelTexts


def text_levels(
    split: Split, tokenizer: Callable, data_cfg: Any, root: str, seed: int
) -> DrawnColumns:
    """word_ids and phrase_ids of IVT (spec ivt §3.2)."""
    known = None
    if data_cfg.name == "cuhk_pedes":  # the others' word level is a clause
        known = attributes.load_or_write(root, {"train": split})["train"]
    return LevelColumns(LevelTexts(split, known, seed), tokenizer, data_cfg.text_length)


def masked_words(
    split: Split, tokenizer: Callable, data_cfg: Any, root: str, seed: int
) -> DrawnColumns:
    """mlm_ids, mlm_positions and mlm_labels of IVT's pre-training (spec ivt §8)."""
    return MaskedColumns(split.caption, tokenizer, data_cfg.text_length, seed)


COLUMNS: dict[str, Callable[..., DrawnColumns]] = {
    "text_levels": text_levels,
    "masked_words": masked_words,
}


def make_columns(
    split: Split, tokenizer: Callable, data_cfg: Any, root: str, seed: int
) -> DrawnColumns | None:
    """The drawn columns that `data_cfg.columns` names; "" is none.

    Raises:
      ValueError: an unknown name.
    """
    if not data_cfg.columns:
        return None
    if data_cfg.columns not in COLUMNS:
        raise ValueError(
            f"data.columns is {data_cfg.columns!r}, expected one of {sorted(COLUMNS)} or ''"
        )
    return COLUMNS[data_cfg.columns](split, tokenizer, data_cfg, root, seed)
