"""The stages that ask a backend: translate, score, rewrite.

Each goes through the captions in the order of the source, skips what its journal holds, and writes
answers batch by batch, in that order. A batch is on the disk before the next one is taken.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.ldat import outcome
from data_pipelines.ldat.interfaces import Failure
from data_pipelines.ldat.journal import Journal, KeySet, Lines, scan
from data_pipelines.ldat.work import Work

Batch = list[tuple[str, Any]]  # keys and tasks


@dataclasses.dataclass
class Tally:
    """What a stage did. `str(tally)` is the line that is printed."""

    stage: str
    done: int = 0
    failed: int = 0
    before: int = 0  # finished in earlier calls

    def __str__(self) -> str:
        line = f"{self.stage}: {self.done} done, {self.before} were done before"
        if self.failed:
            line += f", {self.failed} failed; call again to try those once more"
        return line


def translate(work: Work) -> Tally:
    """Translates every caption of the source that has no translation yet.

    Raises:
      ValueError: the backend cannot work at all.
    """
    tasks = ((work.translation_key(caption), caption) for caption in work.source)
    return _work_off(work, "translate", tasks, work.translator.translate, _text)


def score(work: Work) -> Tally:
    """Scores every translation that has no score yet. Raises ValueError as `translate`."""
    with Lines(work.journal("translate")) as translations:
        tasks = (
            (work.score_key(translation), translation)
            for caption in work.source
            if (translation := outcome.translation(work, translations, caption))
        )
        return _work_off(work, "score", tasks, work.scorer.score, _quality)


def rewrite(work: Work) -> Tally:
    """Rewrites every translation above the threshold. Raises ValueError as `translate`."""
    threshold = outcome.threshold(work)
    tasks = (
        (work.rewrite_key(judged.translation), judged.translation)
        for judged in outcome.judged(work)
        if judged.noise is not None and judged.noise > threshold
    )
    return _work_off(work, "rewrite", tasks, work.rewriter.rewrite, _text)


def _text(task: Any, answer: str) -> dict[str, Any]:
    """The rest of a record; the source is for people who read the file."""
    caption = getattr(task, "caption", task)
    if not answer.strip():
        raise ValueError("the answer is empty")
    answer.encode()  # a UnicodeEncodeError, a ValueError, for half of a character
    return {"image": caption.image, "source": caption.text, "text": answer}


def _quality(task: Any, answer: float) -> dict[str, Any]:
    if not (math.isfinite(answer) and 0 <= answer <= 1):
        raise ValueError(f"the quality is {answer}, expected 0..1")
    return {"quality": float(answer)}


def _work_off(
    work: Work,
    stage: str,
    tasks: Iterable[tuple[str, Any]],
    ask: Callable[[list[Any]], Sequence[Any]],
    describe: Callable[[Any, Any], dict[str, Any]],
) -> Tally:
    """Asks for all tasks, (key, task), that the stage's journal lacks."""
    path, tally = work.journal(stage), Tally(stage)
    with (
        Journal(path) as journal,
        Journal(_failures(path)) as failures,
        contextlib.ExitStack() as on,
    ):
        batches = _batches(_new(tasks, journal.keys, tally), work.config.batch_size)
        answered = on.enter_context(_engine(work, stage, ask, batches))
        bar = on.enter_context(_bar(stage))
        for batch, answers in answered:
            if len(answers) != len(batch):
                raise ValueError(f"{stage}: {len(answers)} answers to {len(batch)} captions")
            good, bad = [], []
            for (key, task), answer in zip(batch, answers, strict=True):
                try:
                    if isinstance(answer, Failure):
                        raise ValueError(answer.reason)
                    good.append({"key": key, **describe(task, answer)})
                except ValueError as error:
                    caption = getattr(task, "caption", task)
                    told = {"image": caption.image, "source": caption.text}
                    bad.append({"key": key, **told, "reason": str(error)})
            journal.append(good)
            if bad:
                failures.append(bad)
            tally.done, tally.failed = tally.done + len(good), tally.failed + len(bad)
            bar.update(len(batch))
    return tally


@contextlib.contextmanager
def _engine(
    work: Work, stage: str, ask: Callable[[list[Any]], Sequence[Any]], batches: Iterable[Batch]
) -> Iterator[Iterable[tuple[Batch, Sequence[Any]]]]:
    """Every batch with its answers, in order: asked for here, or by the workers of a cluster."""
    if not work.engine:
        yield ((batch, ask([task for _, task in batch])) for batch in batches)
        return
    from data_pipelines.ldat import ray_engine  # JAX comes with it

    with ray_engine.answered(work, stage, batches) as answers:
        yield answers


def open_failures(path: Path) -> int:
    """How many captions failed and have not been done since."""
    failed, fixed = KeySet(), KeySet(record["key"] for _, record in scan(path))
    number = 0
    for _, record in scan(_failures(path)):
        if record["key"] not in failed and record["key"] not in fixed:
            number += 1
        failed.add(record["key"])
    return number


def _failures(path: Path) -> Path:
    return path.with_suffix(".failures.jsonl")


def _new(tasks: Iterable[tuple[str, Any]], done: KeySet, tally: Tally) -> Iterator[tuple[str, Any]]:
    """The tasks that are not done, each once."""
    met = KeySet()
    for key, task in tasks:
        if key not in met:
            met.add(key)
            if key in done:
                tally.before += 1
            else:
                yield key, task


def _batches(tasks: Iterable[tuple[str, Any]], size: int) -> Iterator[Batch]:
    if size < 1:
        raise ValueError(f"--config.batch_size={size}; expected at least 1")
    batch = []
    for task in tasks:
        batch.append(task)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _bar(stage: str) -> tqdm:
    return tqdm(desc=stage, unit=" captions", leave=False, disable=None)
