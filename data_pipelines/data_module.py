"""What a run reads: the splits of a data set, bound to a tokenizer and the shapes of a config."""

import logging
import os
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import manifest, pipeline
from data_pipelines.columns import ColumnSource, DrawnColumns, draw_all
from data_pipelines.data_config import RunConfig
from data_pipelines.datasets.annotations import load_dataset
from data_pipelines.datasets.split import Split
from data_pipelines.manifest.load import load_manifest
from data_pipelines.manifest.pairs import load_pairs
from data_pipelines.random_streams import generator
from tipr_jax.batch import Batch, ColumnSpec
from tipr_jax.languages import languages_of
from tipr_jax.text import Tokenizer

log = logging.getLogger("tipr_jax")


class DataModule:
    """Splits and batches of `config` (`tipr_jax.data.Data`); a process reads the rows it asks for.

    The `splits` of a run in several languages are train, val and test with the captions of the
    source, and val_zh, test_zh, ... with the captions of each target: the same images, so the same
    `image_path` object as val and test.

    `tokenizer` may be set later, because it can be made from the captions.

    Raises:
      FileNotFoundError, ValueError: as `load_dataset`.
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer | None = None):
        self.config, self.cfg, self._tokenizer = config, config.data, tokenizer
        self.eval_batch_size = config.eval.batch_size
        self.root = self.cfg.root or os.environ.get("TIPR_DATA", "data")
        self.languages = languages_of(self.cfg)  # source first; (): one language, without a name
        if self.cfg.generate and not self._own_data:
            self._generate()
        self.splits = self._load()

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns captions into ids.

        Raises:
          ValueError: it was not set yet.
        """
        if self._tokenizer is None:
            raise ValueError("the data have no tokenizer yet; set `tokenizer` before reading texts")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def _own_data(self) -> bool:
        """Whether the manifest at `root` is trained on and evaluated."""
        return self.cfg.name == manifest.NAME and not self.cfg.caption_lists

    def _load(self) -> dict[str, Split]:
        if self.cfg.name != manifest.NAME or self._own_data:
            return self._by_language(self._load_dataset(self.cfg.name, self.languages))
        if self.languages:
            raise ValueError(
                f"data.caption_lists are in one language, but {', '.join(self.languages)} are "
                "asked for; clear --config.data.source, --config.data.target and "
                "--config.data.languages"
            )
        evaluated = self._load_dataset(self.cfg.eval_name)
        return evaluated | {"train": load_pairs(self.cfg.caption_lists, self.cfg.image_root)}

    def _load_dataset(self, name: str, languages: Sequence[str] = ()) -> dict[str, Split]:
        if name == manifest.NAME:
            return load_manifest(
                self.root,
                languages,
                image_root=self.cfg.image_root,
                empty_captions=self.cfg.empty_captions,
            )
        return load_dataset(
            name,
            self.root,
            languages,
            empty_captions=self.cfg.empty_captions,
            long_captions=self.cfg.long_captions,
        )

    def _by_language(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Adds the evaluated splits in the target languages."""
        return splits | {
            name: splits[split].in_language(language)
            for split in ("val", "test")
            for name, language in zip(self._in_targets(split), self.languages[1:], strict=True)
        }

    def _generate(self) -> None:
        from data_pipelines.synth_pedes.generate import generate

        name = self.cfg.eval_name if self.cfg.name == manifest.NAME else self.cfg.name
        try:
            generate(self.root, name, languages=self.languages, **self.cfg.generate)
        except FileExistsError as existing:  # data with other parameters, or the user's own data
            log.info("reading the existing data: %s", existing)

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches of every epoch."""
        return pipeline.steps_per_epoch(self.splits["train"], self.cfg)

    def evaluation_splits(self, wanted: Sequence[str]) -> list[str]:
        """The wanted splits that the data set has (ICFG-PEDES has no val).

        "val" and "test" stand for all languages: test, test_zh, ....

        Raises:
          ValueError: it has none of the wanted splits.
        """
        existing = [name for name, split in self.splits.items() if split.caption]
        if not set(wanted) & set(existing):
            raise ValueError(
                f"eval.splits is {tuple(wanted)}, but {self.cfg.name} has {existing}; "
                "set --config.eval.splits to some of them"
            )
        asked = [name for split in wanted for name in (split, *self._in_targets(split))]
        return [name for name in dict.fromkeys(asked) if name in existing]

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

        Args:
          start_step: global step of the first batch.
          rows: int [b], which rows of each global batch to read, here and below; None: all rows.
          columns: what the batches hold beside the common columns; `columns.draw_columns` lists
            the kinds.

        Raises:
          ValueError, FileNotFoundError: as `pipeline.make_train_iter` and `columns.draw_all`.
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
        """Every training pair once, whatever the sampler; the last batch is padded.

        A pure function of (seed, epoch). Order and columns are drawn with a seed of the pass, so
        they differ from every training epoch.
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
            dataset=self.cfg.name,
            root=self.root,
        )
        return draw_all(columns, source)

    def image_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Every image of a split once, in order; the last batch is padded."""
        return pipeline.make_image_iter(
            self.splits[split], self.cfg, self.eval_batch_size, rows=rows
        )

    def text_batches(self, split: str, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Every caption of a split once, in order; the last batch is padded."""
        return pipeline.make_text_iter(
            self.splits[split], self.tokenizer, self.cfg, self.eval_batch_size, rows=rows
        )
