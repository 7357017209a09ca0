"""Searches that wait together: one call of the text encoder and one pass over the gallery."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery import calibrate
from tipr_jax.gallery.calibrate import Line
from tipr_jax.gallery.index import BLOCK, QUERIES
from tipr_jax.gallery.retriever import Match, Retriever, check_query
from tipr_jax.serving.pictures import NoSuchItemError
from tipr_jax.serving.reranking import CANDIDATES, Pairs

# How far a ranking is computed: every page within the first depth takes the same program. Deeper
# ones are rare and are computed alone.
DEPTHS = (128, 2048, BLOCK)


class Found(NamedTuple):
    """An answer: a page of the ranking, of how many items, and what to know of the sentence.

    line: of the calibration, for a sentence alone; above: how many of the ranking's matches, up to
    the end of this page, lie above it; matched: how many of this page's first matches were ordered
    by the matching head, the others are by cosine; candidates: for the head, best cosine first,
    not among `matches`.
    """

    matches: list[Match]
    among: int
    notes: list[str]
    line: Line | None = None
    above: int = 0
    matched: int = 0
    candidates: Sequence[Match] = ()


@dataclasses.dataclass(frozen=True)
class Search:
    """A job: by a sentence, by the likeness to an item or a picture, or by words and looks alike.

    Attributes:
      sentence: describes the person.
      like: an item; 0 for none.
      looks: the vector float32 [C] of a picture, instead of an item.
      k, offset, where, language: as in `Retriever.search`.
      rerank: leave the best `CANDIDATES` to the matching head, see `Found.candidates`.

    Its result is `Found`.

    Raises:
      ValueError: nothing to search for; a filter, a language or a re-ranking that cannot be.
      NoSuchItemError: the item is not there.
    """

    sentence: str = ""
    like: int = 0
    looks: np.ndarray | None = dataclasses.field(default=None, compare=False)
    k: int = 10
    offset: int = 0
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    language: str = ""
    rerank: bool = False

    @property
    def depth(self) -> int:
        want = max(self.offset + self.k, CANDIDATES if self.rerank else 0)
        return next((depth for depth in DEPTHS if want <= depth), want)

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[Found | Exception]:
        results: list[Any] = _vectors(retriever, jobs)
        line = functools.cache(functools.partial(calibrate.line, retriever.store, retriever.model))
        groups: dict[Any, list[int]] = {}
        for number, (search, vector) in enumerate(zip(jobs, results, strict=True)):
            if not isinstance(vector, Exception):
                alone = number if search.depth > DEPTHS[0] else -1
                key = (alone, search.depth, json.dumps(search.where, sort_keys=True))
                groups.setdefault(key, []).append(number)
        for (_, depth, _), numbers in groups.items():
            queries = np.stack([results[number] for number in numbers])
            try:
                ranked, among = retriever.rank(queries, depth, jobs[numbers[0]].where)
            except ValueError as error:  # the filter, which all of them have
                for number in numbers:
                    results[number] = error
                continue
            for number, (ids, scores) in zip(numbers, ranked, strict=True):
                found = _page(retriever, jobs[number], ids, scores, among)
                results[number] = _with_line(found, jobs[number], scores, line)
        return results


def warm_up(retriever: Retriever) -> None:
    """Compiles every program that jobs may need, for every size that a batch is padded to."""
    model, picture = retriever.model, np.zeros((8, 8, 3), np.uint8)
    together = [(rows, DEPTHS[0]) for rows in QUERIES]
    steps: list[Callable[[], Any]] = [
        functools.partial(retriever.prepare, [*together, *((1, depth) for depth in DEPTHS[1:])])
    ]
    for rows in QUERIES:
        steps.append(functools.partial(model.embed_images, [picture] * rows))
        for language in model.languages or ("",):
            steps.append(functools.partial(model.embed_texts, ["a person"] * rows, language))
    if model.can_match:
        pixels = [model.read_image(picture)]
        steps.append(functools.partial(Pairs.together, retriever, [Pairs("a person", pixels)]))
    for step in tqdm(steps, desc="warm up", unit="program", leave=False, disable=None):
        step()


def _vectors(retriever: Retriever, searches: Sequence[Search]) -> list[np.ndarray | Exception]:
    """What each search compares with every item: a unit vector float32 [C], or what is wrong."""
    out: list[Any] = [None] * len(searches)
    sentences: dict[str, list[int]] = {}
    for number, search in enumerate(searches):
        try:
            retriever.model.language_index(search.language)
            if search.rerank:
                retriever.model.check_can_match()
                check_query(search.sentence)
            out[number] = search.looks
            if search.like:
                out[number] = _vector_of(retriever, search.like)
            if search.sentence or out[number] is None:
                check_query(search.sentence)
                sentences.setdefault(search.language, []).append(number)
        except (ValueError, NoSuchItemError) as error:
            out[number] = error
    for language, numbers in sentences.items():
        texts = [searches[number].sentence for number in numbers]
        vectors = retriever.model.embed_texts(texts, language)
        for number, vector in zip(numbers, vectors, strict=True):
            out[number] = vector if out[number] is None else _between(vector, out[number])
    return out


def _vector_of(retriever: Retriever, number: int) -> np.ndarray:
    try:
        return retriever.vectors([number])[0]
    except KeyError:
        raise NoSuchItemError(number) from None


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a + b) / np.linalg.norm(a + b)


def _page(
    retriever: Retriever, search: Search, ids: np.ndarray, scores: np.ndarray, among: int
) -> Found:
    def matches(first: int, end: int) -> list[Match]:
        score = dict(zip(ids[first:end].tolist(), scores[first:end].tolist(), strict=True))
        return [Match(item, score[item.id]) for item in retriever.store.items(ids[first:end])]

    notes = retriever.model.doubts(search.sentence, search.language) if search.sentence else []
    first, end = search.offset, search.offset + search.k
    if not search.rerank:
        return Found(matches(first, end), among, notes)
    rest = matches(max(first, CANDIDATES), max(end, CANDIDATES))
    return Found(rest, among, notes, candidates=matches(0, CANDIDATES))


def _with_line(
    found: Found, search: Search, scores: np.ndarray, line: Callable[[str, str], Line | None]
) -> Found:
    """The same with the calibrated line of its kind of score; pictures have none."""
    if not search.sentence or search.like or search.looks is not None:
        return found
    drawn = line("match" if search.rerank else "cosine", search.language)
    if drawn is None or search.rerank:  # the matching head's scores are not there yet
        return found._replace(line=drawn)
    return found._replace(
        line=drawn, above=drawn.above(scores[: search.offset + search.k].tolist())
    )
