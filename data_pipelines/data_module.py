"""What a run reads: the splits of a data set, bound to a tokenizer and the shapes of a config."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines import pipeline
from data_pipelines.annotations import Split, load_dataset
from data_pipelines.columns import ColumnSource, DrawnColumns, draw_columns
from data_pipelines.draws import generator
from data_pipelines.image_text import load_image_text
from tipr_jax.batch import Batch, ColumnSpec
from tipr_jax.languages import languages_of

log = logging.getLogger("tipr_jax")


class DataModule:
    """Splits and batches of `config`; a process reads the rows it asks for.

    `splits` of a run in several languages are train, val and test with the source's captions, and
    val_zh, test_zh, ... with those of each target: the same images, so the same `image_path` object
    as val and test.

    `tokenizer` may be set after the captions are there, from which it can be made.

    Raises:
      FileNotFoundError, ValueError: as `load_dataset`.
    """

    def __init__(self, config: Any, tokenizer: Callable | None = None):
        self.config, self.cfg, self.tokenizer = config, config.data, tokenizer
        self.eval_batch_size = config.eval.batch_size
        self.root = self.cfg.root or os.environ.get("TIPR_DATA", "data")
        self.languages = languages_of(self.cfg)  # source first; (): one language, without a name
        if self.cfg.generate:
            self._generate()
        self.splits = self._load()

    def _load(self) -> dict[str, Split]:
        if self.cfg.name != "image_text":
            return self._by_language(load_dataset(self.cfg.name, self.root, self.languages))
        if self.languages:
            raise ValueError(
                f"data.name image_text has one language, but {', '.join(self.languages)} are asked "
                "for; clear --config.data.source, --config.data.target and --config.data.languages"
            )
        evaluated = load_dataset(self.cfg.eval_name, self.root)
        train = load_image_text(self.cfg.caption_lists, self.cfg.image_root)
        return evaluated | {"train": train}

    def _by_language(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Adds the evaluated splits in the target languages."""
        return splits | {
            name: splits[split].in_language(language)
            for split in ("val", "test")
            for name, language in zip(self._in_targets(split), self.languages[1:], strict=True)
        }

    def _generate(self) -> None:
        from data_pipelines.synth_pedes.generate import generate

        try:
            name = self.cfg.eval_name if self.cfg.name == "image_text" else self.cfg.name
            generate(self.root, name, languages=self.languages, **self.cfg.generate.to_dict())
        except (
            FileExistsError
        ) as existing:  # another data set, or one of the user's: never replaced
            log.info("reading the data that is there: %s", existing)

    @property
    def steps_per_epoch(self) -> int:
        return pipeline.steps_per_epoch(self.splits["train"], self.cfg)

    def evaluation_splits(self, wanted: tuple[str, ...]) -> list[str]:
        """Those of the wanted splits that the data set has (ICFG-PEDES has no val).

        "val" and "test" stand for all languages: test, test_zh, ....

        Raises:
          ValueError: it has none of them.
        """
        there = [name for name, split in self.splits.items() if split.caption]
        if not set(wanted) & set(there):
            raise ValueError(
                f"eval.splits is {tuple(wanted)}, but {self.cfg.name} has {there}; "
                "set --config.eval.splits to some of them"
            )
        asked = [name for split in wanted for name in (split, *self._in_targets(split))]
        return [name for name in dict.fromkeys(asked) if name in there]

    def _in_targets(self, split: str) -> list[str]:
        return [f"{split}_{language}" for language in self.languages[1:]]

    @property
    def num_pairs(self) -> int:
        """Number of (image, caption) pairs of the train split."""
        return len(self.splits["train"].caption)

    def train_batches(
        self,
        start_step: int,
        rows: np.ndarray | None = None,
        columns: Sequence[ColumnSpec] = (),
    ) -> Iterator[Batch]:
        """Endless batches from `start_step` on, a pure function of (seed, step).

        rows: which rows of each global batch to read, here and below; None: all. columns: what the
        batches hold beside the common columns.
        """
        return pipeline.make_train_iter(
            self.splits["train"],
            self.tokenizer,
            self.cfg,
            seed=self.config.seed,
            start_step=start_step,
            rows=rows,
            drawn=self._drawn(columns, self.config.seed),
        )

    def pair_pass(
        self, epoch: int, rows: np.ndarray | None = None, columns: Sequence[ColumnSpec] = ()
    ) -> Iterator[Batch]:
        """Every training pair once, whatever the sampler; the order and all draws are its own.

        A pure function of (seed, epoch); the last batch is padded.
        """
        seed = generator("pair pass", self.config.seed, epoch).getrandbits(31)
        return pipeline.make_pair_iter(
            self.splits["train"],
            self.tokenizer,
            self.cfg,
            seed=seed,
            rows=rows,
            drawn=self._drawn(columns, seed),
        )

    def _drawn(self, columns: Sequence[ColumnSpec], seed: int) -> DrawnColumns:
        source = ColumnSource(
            split=self.splits["train"],
            tokenizer=self.tokenizer,
            text_length=self.cfg.text_length,
            batch_size=self.cfg.batch_size,
            seed=seed,
            languages=self.languages,
            name=self.cfg.name,
            root=self.root,
        )
        every = [draw_columns(spec, source) for spec in columns]

        def draw(chosen: np.ndarray, epoch: int, places: np.ndarray) -> Batch:
            return {k: v for one in every for k, v in one(chosen, epoch, places).items()}

        return draw

    def image_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        return pipeline.make_image_iter(
            self.splits[split], self.cfg, self.eval_batch_size, rows=rows
        )

    def text_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        return pipeline.make_text_iter(
            self.splits[split], self.tokenizer, self.cfg, self.eval_batch_size, rows=rows
        )
