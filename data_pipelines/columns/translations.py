"""The caption of a row in a target language, clean and with masked words (`batch.Translations`)."""

import numpy as np

from data_pipelines.columns.masked_words import mask_captions
from data_pipelines.columns.source import ColumnSource, DrawnColumns
from data_pipelines.random_streams import generator
from tipr_jax.batch import Translations


def draw(spec: Translations, source: ColumnSource) -> DrawnColumns:
    """The columns of `Translations`, a function of (seed, epoch, row).

    With several target languages each row draws one, in every epoch anew.

    Raises:
      ValueError: the data have one language.
    """
    targets, translation = source.languages[1:], source.split.translation
    if not targets:
        raise ValueError(
            "this method reads captions in two languages, but the data has one language; set "
            "--config.data.source and --config.data.target"
        )

    def columns(rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        numbers: list[int] = rows.tolist()
        drawn = [choose_target(source.seed, epoch, row, len(targets)) for row in numbers]
        languages = [targets[number - 1] for number in drawn]
        captions = [translation[name][row] for name, row in zip(languages, numbers, strict=True)]
        ids = source.tokenizer(captions, source.text_length)
        out = {"target_ids": ids, "target_language": np.array(drawn, np.int32)}
        if spec.masked_words:
            masked = mask_captions(ids, numbers, languages, epoch, spec.masked_words, source)
            out |= {f"target_{name}": column for name, column in masked.items()}
        return out

    return columns


def choose_target(seed: int, epoch: int, row: int, targets: int) -> int:
    """Place of a target language among all languages of the run: 1 to `targets`."""
    return generator("choose target", seed, epoch, row).randint(1, targets)
