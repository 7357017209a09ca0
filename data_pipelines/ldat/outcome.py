"""What became of each caption: its noise against the threshold, and the text that is final."""

import dataclasses
from collections.abc import Iterator

from data_pipelines.ldat.interfaces import Caption, Translation
from data_pipelines.ldat.journal import Lines
from data_pipelines.ldat.work import Work

# How a text became final. "kept": noisy, but nothing better is there.
STATUSES = ("clean", "rewritten", "kept", "unscored", "corrected", "missing")


@dataclasses.dataclass(frozen=True)
class Judged:
    """A translation and its noise, 1 - quality; None without a score."""

    translation: Translation
    noise: float | None


@dataclasses.dataclass(frozen=True)
class Final:
    """A caption's text in the target language; "" where the status is missing."""

    caption: Caption
    text: str
    status: str
    first: str  # the translation before rewriting and correction
    noise: float | None


def translation(work: Work, translations: Lines, caption: Caption) -> Translation | None:
    """The translation of a caption, from the journal of `translate`; None if there is none."""
    record = translations.get(work.translation_key(caption))
    return Translation(caption, record["text"]) if record else None


def judged(work: Work) -> Iterator[Judged]:
    """Every translation of the job in the order of the source."""
    with Lines(work.journal("translate")) as translations, Lines(work.journal("score")) as scores:
        for caption in work.source:
            if found := translation(work, translations, caption):
                yield Judged(found, _noise(work, scores, found))


def threshold(work: Work) -> float:
    """The noise above which a translation is noisy; the paper's rule, or the configured number.

    The rule: the mean noise of all translations, rounded to 2 digits (0.15 for the Chinese
    captions of CUHK-PEDES). The paper does not say how halves are rounded; here as Python does.

    Raises:
      ValueError: no translation has a score, or --config.theta is neither auto nor in 0..1.
    """
    given = str(work.config.theta)
    if given != "auto":
        try:
            if 0 <= float(given) <= 1:
                return float(given)
        except ValueError:
            pass
        raise ValueError(f"--config.theta={given}; expected auto or a noise from 0 to 1")
    total, number = 0.0, 0
    for one in judged(work):
        if one.noise is not None:
            total, number = total + one.noise, number + 1
    if not number:
        raise ValueError("no translation has a score yet; run translate and score before")
    return round(total / number, 2)


class Finals:
    """Looks up what became of captions; a context, which holds the journals open."""

    def __init__(self, work: Work, theta: float):
        self._work, self._theta = work, theta
        self._lines = {
            stage: Lines(work.journal(stage))
            for stage in ("translate", "score", "rewrite", "review")
        }

    def __enter__(self) -> "Finals":
        return self

    def __exit__(self, *error: object) -> None:
        for lines in self._lines.values():
            lines.__exit__(*error)

    def __call__(self, caption: Caption) -> Final:
        """A correction goes before everything; an empty caption stays empty and is clean."""
        if not caption.text.strip():
            return Final(caption, caption.text, "clean", caption.text, 0.0)
        text, status, first, noise = "", "missing", "", None
        if found := translation(self._work, self._lines["translate"], caption):
            noise = _noise(self._work, self._lines["score"], found)
            first = found.text
            text, status = self._rewritten(found, noise)
        if correction := self._lines["review"].get(self._work.review_key(caption)):
            text, status = correction["text"], "corrected"
        return Final(caption, text, status, first, noise)

    def _rewritten(self, found: Translation, noise: float | None) -> tuple[str, str]:
        if noise is None:
            return found.text, "unscored"
        if noise <= self._theta:
            return found.text, "clean"
        record = self._lines["rewrite"].get(self._work.rewrite_key(found))
        if record and record["text"] not in (found.text, found.caption.text):
            return record["text"], "rewritten"
        return found.text, "kept"


def _noise(work: Work, scores: Lines, found: Translation) -> float | None:
    record = scores.get(work.score_key(found))
    return None if record is None else round(1 - record["quality"], 6)
