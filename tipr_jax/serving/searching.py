"""Searches that wait together: one call of the text encoder and one pass over the gallery."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery.index import BLOCK, QUERIES
from tipr_jax.gallery.retriever import Match, Retriever, check_query
from tipr_jax.serving.pictures import NoSuchItemError

# How far a ranking is computed: every page within the first depth takes the same program. Deeper
# ones are rare and are computed alone.
DEPTHS = (128, 2048, BLOCK)


class Found(NamedTuple):
    """An answer: a page of the ranking, of how many items, and what to know of the sentence."""

    matches: list[Match]
    among: int
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Search:
    """A job: by a sentence, by the likeness to an item, or both with equal weight.

    The other fields are as in `Retriever.search`. Its result is `Found`.

    Raises:
      ValueError: neither sentence nor item; a filter or a language that cannot be.
      NoSuchItemError: the item is not there.
    """

    sentence: str = ""
    like: int = 0
    k: int = 10
    offset: int = 0
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    language: str = ""

    @property
    def depth(self) -> int:
        want = self.offset + self.k
        return next((depth for depth in DEPTHS if want <= depth), want)

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[Found | Exception]:
        results: list[Any] = _vectors(retriever, jobs)
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
                results[number] = _page(retriever, jobs[number], ids, scores, among)
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
    for step in tqdm(steps, desc="warm up", unit="program", leave=False, disable=None):
        step()


def _vectors(retriever: Retriever, searches: Sequence[Search]) -> list[np.ndarray | Exception]:
    """What each search compares with every item: a unit vector float32 [C], or what is wrong."""
    out: list[Any] = [None] * len(searches)
    sentences: dict[str, list[int]] = {}
    for number, search in enumerate(searches):
        try:
            retriever.model.language_index(search.language)
            if search.like:
                out[number] = _vector_of(retriever, search.like)
            if search.sentence or not search.like:
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
    part = slice(search.offset, search.offset + search.k)
    score = dict(zip(ids[part].tolist(), scores[part].tolist(), strict=True))
    matches = [Match(item, score[item.id]) for item in retriever.store.items(ids[part])]
    notes = retriever.model.doubts(search.sentence, search.language) if search.sentence else []
    return Found(matches, among, notes)
