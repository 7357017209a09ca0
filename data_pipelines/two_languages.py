"""What a batch of Bi-IRRA holds beside images and source captions (spec bi_irra §2, §3.4, §3.5)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines.annotations import Split
from data_pipelines.draws import generator
from data_pipelines.patch_masks import PatchMasks
from data_pipelines.span_masking import MaskingLaw, mask_texts, spread
from tipr_jax.languages import languages_of


class TwoLanguageColumns:
    """Target captions, masked words of both languages, and patch masks.

    With several target languages each row draws one, in every epoch anew. Texts are functions of
    (seed, epoch, row), patch masks of (seed, epoch, place).

    Args:
      split: with the translations of the target languages.
      tokenizer: as `span_masking.mask_texts` asks for.
      config: of the run; the laws of the draws are fields of `config.model`.

    Raises:
      ValueError: no target language.
    """

    def __init__(self, split: Split, tokenizer: Callable, config: Any):
        data, model = config.data, config.model
        if not hasattr(model, "mlm_max_masks"):
            raise ValueError(
                f"data.columns is 'two_languages', which {config.method} does not read; set "
                "--config.data.columns to what its config file has"
            )
        self.source, *self.targets = languages_of(data) or ("",)
        if not self.targets:
            raise ValueError(
                "data.columns is 'two_languages', but the data has one language; set "
                "--config.data.source and --config.data.target"
            )
        self.split, self.tokenizer = split, tokenizer
        self.length, self.seed = data.text_length, config.seed
        self.law = MaskingLaw(
            share=model.mlm_prob,
            max_masks=model.mlm_max_masks,
            span_probability=model.mlm_span_prob,
            span_max=model.mlm_span_max,
            whole_words=False,
        )
        # The rows that share negatives share a mask: the released one is drawn per GPU.
        shared = min(model.itm_group_size, data.batch_size)
        group = {"batch": shared, "sample": 1}[model.mim_mask_scope]
        grid = tuple(side // model.patch for side in data.image_size)
        self.patch_masks = PatchMasks(model.mim_mask, grid, model.mim_ratio, group, self.seed)

    def __call__(self, rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of `rows` int [b], which stand at `places` int [b] of the epoch.

        Returns:
          target_ids, mlm_ids, target_mlm_ids int32 [b, L]; mlm_positions, target_mlm_positions,
          mlm_labels, target_mlm_labels int32 [b, M], as `mask_texts` gives them; target_language
          int32 [b], from 1 on; patch_mask bool [b, P]. Padding rows (-1) have ids and positions 0,
          labels -100, language 1 and no mask.
        """
        is_row = rows >= 0
        there = rows[is_row].tolist()
        languages = [self._target(row, epoch) for row in there]
        _, masked = self._texts(there, epoch, [self.source] * len(there))
        ids, target_masked = self._texts(there, epoch, [self.targets[i - 1] for i in languages])
        columns = {"target_ids": ids} | masked
        columns |= {f"target_{name}": column for name, column in target_masked.items()}
        target_language = np.ones(len(rows), np.int32)
        target_language[is_row] = languages
        return spread(columns, is_row) | {
            "target_language": target_language,
            "patch_mask": self.patch_masks(epoch, places) & is_row[:, None],
        }

    def _target(self, row: int, epoch: int) -> int:
        """Index of a target among all languages."""
        return generator("choose target", self.seed, epoch, row).randint(1, len(self.targets))

    def _texts(
        self, rows: list[int], epoch: int, languages: list[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Clean ids int32 [n, L] and masked words of the captions in the given languages."""
        captions = {self.source: self.split.caption, **self.split.translation}
        pairs = list(zip(rows, languages, strict=True))
        ids = self.tokenizer([captions[language][row] for row, language in pairs], self.length)
        rngs = [generator("mask words", self.seed, epoch, *pair) for pair in pairs]
        return ids, mask_texts(ids, rngs, self.tokenizer, self.law)
