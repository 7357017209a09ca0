"""A job, one data set into one language: its backends, the keys of its answers, its files."""

import functools
import os
from pathlib import Path
from typing import Any

from data_pipelines.datasets import annotations
from data_pipelines.datasets.split import SPLITS
from data_pipelines.ldat import registry
from data_pipelines.ldat.interfaces import Caption, QualityScorer, Rewriter, Translation, Translator
from data_pipelines.ldat.journal import content_key
from data_pipelines.ldat.source import Source
from tipr_jax.languages import language_name
from tipr_jax.paths import local_path


class Work:
    """What the stages of a job share. Backends are made when a stage first needs them.

    config: with the fields of `configs/ldat.py`.
    engine: "" asks the backends in this process, "ray" in the workers of `ray_engine.py`.

    Raises:
      ValueError: an unknown language, split or engine, the target is the source, or an address as
        a path.
      FileNotFoundError: there is no such data set.
    """

    def __init__(self, config: Any, engine: str = ""):
        if engine not in ("", "ray"):
            raise ValueError(f"--engine={engine}: expected ray, or nothing for this process alone")
        self.config, self.engine = config, engine
        self.source_language = language_name(config.source)
        self.target = language_name(config.target)
        if self.source_language == self.target:
            raise ValueError(
                f"--config.source and --config.target are both {self.target}; give another target"
            )
        splits = config.splits.split(",")
        if set(splits) - set(SPLITS):
            raise ValueError(f"--config.splits={config.splits}; use some of {','.join(SPLITS)}")
        root = config.data.root or os.environ.get("TIPR_DATA", "data")
        root = str(local_path(root, "--config.data.root"))
        directory, _ = annotations.find_directory(config.data.name, root)
        self.folder = (
            local_path(config.workdir, "--config.workdir")
            if config.workdir
            else Path(directory, "translations", self.target)
        )
        # Where the files are exported to; None: beside those of the source.
        self.output = local_path(config.output, "--config.output") if config.output else None
        self.source = Source(
            config.data.name, root, self.source_language,
            [split for split in SPLITS if split in splits], self.folder,
        )  # fmt: skip

    @functools.cached_property
    def translator(self) -> Translator:
        return registry.make(registry.TRANSLATORS, "translator", self.config, self.source)

    @functools.cached_property
    def scorer(self) -> QualityScorer:
        return registry.make(registry.SCORERS, "scorer", self.config, self.source)

    @functools.cached_property
    def rewriter(self) -> Rewriter:
        return registry.make(registry.REWRITERS, "rewriter", self.config, self.source)

    def journal(self, stage: str) -> Path:
        """The file of a stage: translate | score | rewrite | review."""
        return self.folder / f"{stage}.jsonl"

    def translation_key(self, caption: Caption) -> str:
        """Of all that decides a translation."""
        return content_key(self._translating, caption.image, caption.text)

    def score_key(self, translation: Translation) -> str:
        """Of all that decides a score."""
        return content_key(self._scoring, translation.caption.text, translation.text)

    def rewrite_key(self, translation: Translation) -> str:
        """Of all that decides a rewritten text."""
        caption = translation.caption
        return content_key(self._rewriting, caption.image, caption.text, translation.text)

    def review_key(self, caption: Caption) -> str:
        """Of a caption, whoever translated it."""
        return content_key("review", self.target, caption.image, caption.text)

    # Settings are hashed once: they are long, and a key is made for every caption of every stage.
    @functools.cached_property
    def _translating(self) -> str:
        return self._stage_key("translator", self.translator.settings)

    @functools.cached_property
    def _scoring(self) -> str:
        return self._stage_key("scorer", self.scorer.settings)

    @functools.cached_property
    def _rewriting(self) -> str:
        return self._stage_key("rewriter", self.rewriter.settings)

    def _stage_key(self, role: str, settings) -> str:
        return content_key(role, self.config[role], dict(settings), self.target)
