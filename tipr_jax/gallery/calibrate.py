"""Measures a model's calibration on labelled photos and keeps it in a gallery, for its searches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tipr_jax.data import Split
from tipr_jax.gallery import calibration
from tipr_jax.gallery.calibration import Curve
from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.inference.embedder import Embedder

SETTING = "calibration"


class Line(NamedTuple):
    """The score at which an answer's line is drawn, and how it was found; it hides nothing.

    false_alarms, misses: shares in 0 to 1 on `data`, with `photos` photos; reliable: the scores
    tell the right person from others well enough (`calibration.RELIABLE_AUC`).
    """

    score: float
    false_alarms: float
    misses: float
    auc: float
    reliable: bool
    photos: int
    data: str

    def in_words(self) -> str:
        text = (
            f"line at {self.score:.3f}: on {self.photos:,} photos of {self.data} "
            f"{100 * self.false_alarms:.0f} % false alarms, {100 * self.misses:.0f} % misses"
        )
        return text if self.reliable else f"{text}; not reliable (AUC {self.auc:.2f})"

    def above(self, scores: Sequence[float]) -> int:
        """How many of a ranking's scores, best first, lie above the line or on it."""
        return next((i for i, score in enumerate(scores) if score < self.score), len(scores))


def measure(
    model: Embedder, labelled: Split, language: str = "", rerank: int = 0
) -> dict[str, Curve]:
    """{"cosine": curve}, and with rerank > 0 {"match": curve} of the matching head.

    rerank: how many photos of each sentence the matching head scores, the best by cosine.

    Raises:
      ValueError: nothing to measure, see `calibration.curve`; a model without a matching head.
    """
    from tipr_jax.metrics.rerank import top_candidates  # not needed to draw a line

    if rerank:
        model.check_can_match()
    paths = [str(path) for path in labelled.image_path]
    cosine = model.embed_texts(labelled.caption, language) @ model.embed_images(paths).T
    right = labelled.caption_person_id[:, None] == labelled.image_person_id[None]
    curves = {"cosine": calibration.curve(cosine, right)}
    if rerank:
        match = np.full(cosine.shape, -np.inf)
        candidates = top_candidates(cosine, rerank)
        rows = tqdm(candidates, desc="match", unit="query", leave=False, disable=None)
        for query, best in enumerate(rows):
            match[query, best] = model.match([paths[i] for i in best], labelled.caption[query])
        curves["match"] = calibration.curve(match, right)
    return curves


def remember(
    store: GalleryStore,
    model: Embedder,
    curves: dict[str, Curve],
    data: str,
    photos: int,
    rate: float,
    language: str = "",
) -> None:
    """Keeps the curves in the gallery, for sentences in this language ("": the model's first).

    rate: the share of false alarms at which to draw the line.

    Raises:
      ValueError: a rate outside 0 to 1.
    """
    for curve in curves.values():
        curve.at(rate)
    stored: dict[str, Any] = {name: curve.as_stored() for name, curve in curves.items()}
    facts = {"model": model.fingerprint, "data": data, "photos": photos, "rate": rate}
    store.remember(_setting(model, language), facts | {"curves": stored})


def _setting(model: Embedder, language: str) -> str:
    """Under which name a gallery keeps a language's calibration."""
    index = model.language_index(language)
    return f"{SETTING} {model.languages[index]}" if model.languages else SETTING


def line(
    store: GalleryStore, model: Embedder, score: str = "cosine", language: str = ""
) -> Line | None:
    """Where to draw the line under answers to a sentence, by "cosine" or "match".

    None without a calibration of this model in this language. An answer to a picture has none: its
    scores are of another kind than a sentence's.
    """
    facts = store.setting(_setting(model, language))
    if not facts or facts["model"] != model.fingerprint:
        return None
    if score not in facts["curves"]:
        return None
    curve = calibration.from_stored(facts["curves"][score])
    at, false_alarms, misses = curve.at(facts["rate"])
    photos, data = facts["photos"], facts["data"]
    return Line(at, false_alarms, misses, curve.auc, curve.reliable, photos, data)
