"""What a run reads: the splits of a data set, bound to a tokenizer and the shapes of a config."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_pipelines import pipeline
from data_pipelines.annotations import Split, load_dataset
from data_pipelines.columns import make_columns
from data_pipelines.image_text import load_image_text
from tipr_jax.batch import Batch

log = logging.getLogger("tipr_jax")


class DataModule:
    """Splits and batches of `config.data`; a process reads the rows it asks for.

    `tokenizer` may be set after the captions are there, from which it can be made.

    Raises:
      FileNotFoundError, ValueError: as `load_dataset`.
    """

    def __init__(
        self, data_cfg: Any, tokenizer: Callable | None = None, *, seed: int, eval_batch_size: int
    ):
        self.cfg, self.tokenizer, self.seed = data_cfg, tokenizer, seed
        self.eval_batch_size = eval_batch_size
        self.root = data_cfg.root or os.environ.get("TIPR_DATA", "data")
        if data_cfg.generate:
            self._generate()
        self.splits = self._load()

    def _load(self) -> dict[str, Split]:
        if self.cfg.name != "image_text":
            return load_dataset(self.cfg.name, self.root)
        evaluated = load_dataset(self.cfg.eval_name, self.root)
        train = load_image_text(self.cfg.caption_lists, self.cfg.image_root)
        return evaluated | {"train": train}

    def _generate(self) -> None:
        from data_pipelines.synth_pedes.generate import generate

        try:
            name = self.cfg.eval_name if self.cfg.name == "image_text" else self.cfg.name
            generate(self.root, name, **self.cfg.generate.to_dict())
        except (
            FileExistsError
        ) as existing:  # another data set, or one of the user's: never replaced
            log.info("reading the data that is there: %s", existing)

    @property
    def steps_per_epoch(self) -> int:
        return pipeline.steps_per_epoch(self.splits["train"], self.cfg)

    def evaluation_splits(self, wanted: tuple[str, ...]) -> list[str]:
        """Those of the wanted splits that the data set has (ICFG-PEDES has no val).

        Raises:
          ValueError: it has none of them.
        """
        there = [name for name, split in self.splits.items() if split.caption]
        if not set(wanted) & set(there):
            raise ValueError(
                f"eval.splits is {tuple(wanted)}, but {self.cfg.name} has {there}; "
                "set --config.eval.splits to some of them"
            )
        return [name for name in wanted if name in there]

    def train_batches(self, start_step: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Endless batches from `start_step` on, a pure function of (seed, step).

        rows: which rows of each global batch to read, here and below; None: all.
        """
        return pipeline.make_train_iter(
            self.splits["train"],
            self.tokenizer,
            self.cfg,
            seed=self.seed,
            start_step=start_step,
            rows=rows,
            drawn=make_columns(
                self.splits["train"], self.tokenizer, self.cfg, self.root, self.seed
            ),
        )

    def image_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        return pipeline.make_image_iter(
            self.splits[split], self.cfg, self.eval_batch_size, rows=rows
        )

    def text_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        return pipeline.make_text_iter(
            self.splits[split], self.tokenizer, self.cfg, self.eval_batch_size, rows=rows
        )
