"""What a run is judged by: its evaluations, which of them is the best, and `results.json`.

An evaluation is logged as a flat row with keys "eval/<split>/<direction>/<metric>", as in
"eval/test/t2i/R1", in percent. Directions are t2i, i2t and, where a matching head re-ranks,
t2i_rerank, and t2i_mix with the cosine's share in the score as "weight"; then "eval/rerank_k" tells
the number of candidates. Splits of a multilingual run are
"test" (captions in the source language), "test_zh" (the same images, Chinese captions), ...

`select` is the one place that says which evaluation is the best. The checkpoints that a run keeps,
the weights that are loaded from it, its `results.json` and its report all ask it.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tipr_jax import run_files
from tipr_jax.languages import LANGUAGES, languages_of
from tipr_jax.paths import place

Metrics = dict[str, float]  # metric -> percent
Directions = dict[str, Metrics]  # direction -> metrics
Scores = dict[str, Directions]  # split -> directions
Block = dict[str, Any]  # {"split", "step"} and the directions of one set of weights

RERANK_K = "eval/rerank_k"
# Text-to-image rankings, the final one of a split first.
FINAL = ("t2i_mix", "t2i_rerank", "t2i")
TIES = ("earlier", "later")


class Evaluation(NamedTuple):
    """What one evaluation measured.

    rerank_k: how many candidates of each query a matching head ordered anew; 0 if none did, and in
    runs from before it was recorded.
    """

    step: int
    scores: Scores
    rerank_k: int = 0


@dataclasses.dataclass(frozen=True)
class Criterion:
    """By what the best evaluation of a run is selected.

    select_on: the split; select_by: text-to-image metrics joined by +, as in "R1" or "R1+mAP",
    whose mean counts. ties: "earlier" (the released IRRA) or "later" (the released IVT).
    """

    select_on: str
    select_by: str
    ties: str = "earlier"  # or "later": which of equal evaluations is the best

    @property
    def source(self) -> str:
        """The split of the same images with captions in the source language."""
        return _in_source(self.select_on)

    def splits(self, evaluations: Iterable[Evaluation]) -> list[str]:
        """`select_on`, then the splits of the same images in the other evaluated languages."""
        known = {split: None for e in evaluations for split in e.scores}
        same = [split for split in known if _in_source(split) == self.source]
        return [self.select_on, *(split for split in same if split != self.select_on)]

    def on(self, split: str) -> "Criterion":
        """The same criterion on another split."""
        return dataclasses.replace(self, select_on=split)

    def in_language(self, language: str, evaluations: Iterable[Evaluation]) -> "Criterion":
        """The criterion for captions in one language; "" for `select_on` as it is.

        For the source language, and for one that was not evaluated, that is the split in the source
        language; if this was not evaluated either, `select_on`.
        """
        if not language:
            return self
        known = self.splits(evaluations)
        splits = (f"{self.source}_{language}", self.source)
        return self.on(next((split for split in splits if split in known), self.select_on))


def criterion_of(evaluation_config: Mapping[str, Any]) -> Criterion:
    """The criterion of the section `eval` of a config. Raises ValueError for unknown `ties`."""
    ties = evaluation_config.get("ties", "earlier")  # which older runs do not have
    if ties not in TIES:
        raise ValueError(f"eval.ties is {ties!r}, expected one of {TIES}")
    return Criterion(evaluation_config["select_on"], evaluation_config["select_by"], ties)


def _language(split: str) -> str:
    """Of the captions, as the name of the split tells it: "test_zh" -> "zh", "test" -> ""."""
    suffix = split.rpartition("_")[2]
    return suffix if "_" in split and suffix in LANGUAGES else ""


def _in_source(split: str) -> str:
    """ "test_zh" -> "test", "test" -> "test"."""
    return split.removesuffix(f"_{_language(split)}") if _language(split) else split


def evaluation_row(scores: Scores, rerank_k: int = 0) -> dict[str, float]:
    """The flat form in which an evaluation is logged and saved with its checkpoint.

    rerank_k: the number of candidates; recorded if the scores have a re-ranked direction.
    """
    row: dict[str, float] = {
        f"eval/{split}/{direction}/{metric}": value
        for split, directions in scores.items()
        for direction, metrics in directions.items()
        for metric, value in metrics.items()
    }
    reranked = any("t2i_rerank" in directions for directions in scores.values())
    return row | ({RERANK_K: rerank_k} if reranked and rerank_k else {})


def from_row(step: int, row: Mapping[str, Any]) -> Evaluation | None:
    """The evaluation in a logged row, whose other entries are left aside; None without one."""
    scores: Scores = {}
    for key, value in row.items():
        if key.startswith("eval/") and key != RERANK_K:
            _, split, direction, metric = key.split("/")
            scores.setdefault(split, {}).setdefault(direction, {})[metric] = value
    return Evaluation(step, scores, int(row.get(RERANK_K, 0))) if scores else None


def read_evaluations(workdir: str | Path) -> list[Evaluation]:
    """Every evaluation of a run, in order; of a step that was evaluated twice the later one."""
    found: dict[int, Evaluation] = {}
    for step, row in run_files.read_metrics(workdir):
        if evaluation := from_row(step, row):
            found[step] = evaluation
    return [found[step] for step in sorted(found)]


def chosen_by(scores: Directions) -> Metrics:
    """The metrics of the final text-to-image ranking of a split: re-ranked, if it was."""
    return next(scores[direction] for direction in FINAL if direction in scores)


def selection_score(scores: Directions, select_by: str) -> float:
    """What a checkpoint is selected by: the mean of text-to-image metrics, as in "R1" or "R1+mAP".

    Raises:
      ValueError: an unknown metric.
    """
    metrics = chosen_by(scores)
    try:
        values = [metrics[metric] for metric in select_by.split("+")]
    except KeyError as error:
        raise ValueError(
            f"eval.select_by is {select_by!r}, expected metrics joined by +, of {list(metrics)}"
        ) from error
    return sum(values) / len(values)


def select(evaluations: Iterable[Evaluation], criterion: Criterion) -> Evaluation | None:
    """The best evaluation; of equal ones the earliest, or the latest if the criterion says so.

    Re-ranked metrics count if every evaluation was re-ranked, in one way and with one number of
    candidates; otherwise all are compared by cosine, for a run that continued may have changed it.
    Evaluations without the split do not take part; None if no evaluation has it.
    """
    split = criterion.select_on
    known = [e for e in evaluations if split in e.scores]
    candidates = {e.rerank_k for e in known if e.rerank_k}  # old runs did not record it
    ways = {frozenset(e.scores[split]) for e in known}
    comparable = len(candidates) <= 1 and len(ways) == 1

    def rank(evaluation: Evaluation) -> tuple[float, int]:
        scores = evaluation.scores[split]
        scores = scores if comparable else {"t2i": scores["t2i"]}
        later = evaluation.step if criterion.ties == "later" else -evaluation.step
        return selection_score(scores, criterion.select_by), later

    return max(known, key=rank, default=None)


def summarise(
    evaluations: Sequence[Evaluation],
    config: ConfigDict,
    selected_on: str,
    untrained: Evaluation | None = None,
    kept: Collection[int] | None = None,
) -> dict[str, Any]:
    """What `results.json` holds.

    `split`, `step`, `selected_on`, `t2i`, `i2t` and `config_hash` describe the test split (the
    first split, where there is no test) at the best of the evaluations whose checkpoints are kept.
    `others` has the same numbers for random weights, for the weights training started from, for
    what each split would have selected, and for the last epoch, as far as they are known; only for
    the split that selects are these sure to be kept. `languages`, of a multilingual run, has per
    language the test split in the last epoch and at the best evaluation in that language (the
    papers select for each), whose checkpoint is kept, too.

    Args:
      evaluations: of a run in order, or the only one of given weights.
      config: its `eval` and `data` sections are read.
      selected_on: the split that selects, or "given" where nothing is selected.
      untrained: the evaluation of random weights, of a run that started from others.
      kept: the steps whose checkpoints exist; None for all.
    """
    trained = [e for e in evaluations if e.step > 0] or list(evaluations)
    saved = trained if kept is None else [e for e in trained if e.step in kept]
    last = trained[-1]
    report_on = "test" if "test" in last.scores else next(iter(last.scores))
    criterion = criterion_of({**config.eval, "select_on": selected_on})
    chosen = select(saved, criterion) or last
    summary = _block(chosen, report_on) | {
        "selected_on": selected_on,
        "config_hash": run_files.config_hash(config),
        "gallery": config.eval.gallery,
    }
    others: dict[str, Block] = {}
    if untrained:
        others["untrained"] = _block(untrained, report_on)
    if len(trained) < len(evaluations):
        others["start" if config.init_from else "untrained"] = _block(evaluations[0], report_on)
        for split in last.scores:
            if split == selected_on or not _language(split):
                among = saved if split in criterion.splits(saved) else trained
                best = select(among, criterion.on(split)) or last
                others[f"best on {split}"] = _block(best, report_on)
        others["last epoch"] = _block(last, report_on)
    summary["others"] = others
    splits = [split for split in last.scores if _in_source(split) == report_on]
    if any(map(_language, splits)):
        source = languages_of(config.data)[0]
        summary["languages"] = {
            language: {
                "best": _block(
                    select(saved, criterion.in_language(language, saved)) or last, split
                ),
                "last epoch": _block(last, split),
            }
            for language, split in ((_language(split) or source, split) for split in splits)
        }
    return summary


def _block(evaluation: Evaluation, split: str) -> Block:
    return {"split": split, "step": evaluation.step} | evaluation.scores.get(split, {})


def write_results(workdir: str | Path, config: ConfigDict) -> dict[str, Any]:
    """Summarises a run's evaluations, and its earliest warm start's first, into `results.json`."""
    earliest = place(workdir)
    while (earliest / run_files.WARM_START).is_dir():
        earliest /= run_files.WARM_START
    untrained = read_evaluations(earliest)[0] if earliest != place(workdir) else None
    kept = run_files.saved_steps(workdir)
    evaluations = read_evaluations(workdir)
    summary = summarise(evaluations, config, config.eval.select_on, untrained, kept)
    save(workdir, summary)
    return summary


def save(workdir: str | Path, summary: Mapping[str, Any]) -> None:
    workdir = place(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / run_files.RESULTS).write_text(json.dumps(summary, indent=2) + "\n")
