"""Evaluation: encode gallery and queries in padded, sharded batches, then rank by cosine.

With `eval.rerank_k` a matching head then orders each query's best candidates anew (`rerank`).
Every process encodes its rows of each batch and gets all features; process 0 ranks.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from tipr_jax import distributed
from tipr_jax.batch import Batch
from tipr_jax.data import Data, Split
from tipr_jax.experiment import Experiment
from tipr_jax.inference.encoders import Encoders, language_index
from tipr_jax.inference.rerank import Reranker
from tipr_jax.metrics.rerank import (
    candidate_cosines,
    candidate_ranks,
    cosine_candidates,
    match_score,
    mixed_score,
)
from tipr_jax.metrics.retrieval import (
    embedding_ranks,
    gallery_images,
    l2_normalise,
    metrics_from_ranks,
    retrieval_metrics,
)
from tipr_jax.models.method import Params
from tipr_jax.report.sheets import RetrievalSheet, picture_of
from tipr_jax.results import Scores
from tipr_jax.sharding import process_rows

log = logging.getLogger("tipr_jax")

TUNED = -1.0  # as eval.rerank_mix: the weight is chosen on val
WEIGHTS = np.linspace(0, 1, 11)  # to choose from


class SplitFeatures(NamedTuple):
    """Un-normalised features of one split: images [G,C] and captions [Q,C], float32.

    image_tokens: [G,1+P,D] in the compute dtype, where re-ranking needs them.
    """

    image: np.ndarray
    text: np.ndarray
    image_tokens: np.ndarray | None = None


class Interrupted(Exception):
    """An evaluation was asked to stop."""


class Evaluator:
    """Encodes splits with jitted encoders; one instance serves a whole run.

    `should_stop` is asked before every batch; True ends the evaluation with `Interrupted`.

    Raises:
      ValueError: a negative `eval.rerank_k`; `eval.rerank_pairs` does not fit the mesh; an unknown
        `eval.rerank_score`; an `eval.rerank_mix` that is no weight.
    """

    def __init__(
        self, exp: Experiment, data: Data, should_stop: Callable[[], bool] = lambda: False
    ):
        self.config, self.data, self.should_stop = exp.config, data, should_stop
        self.encoders = Encoders.of_experiment(exp)
        self._told: set[str] = set()  # splits of whose gallery size a line was logged
        cfg = exp.config.eval
        match_score(np.zeros(2), cfg.rerank_score)  # raises for an unknown one
        if cfg.rerank_k < 0:
            raise ValueError(f"eval.rerank_k is {cfg.rerank_k}, expected 0 (no re-ranking) or more")
        if cfg.rerank_mix != TUNED and not 0 <= cfg.rerank_mix <= 1:
            raise ValueError(
                f"eval.rerank_mix is {cfg.rerank_mix}, expected the weight of the cosine, 0 to 1, "
                "or -1 to choose it on val"
            )
        self._tuned: dict[str, float] = {}  # language -> the weight that was chosen on val
        self.reranker = None
        if cfg.rerank_k and self.encoders.config.can_match:
            self.reranker = Reranker(
                self.encoders, text_rows=cfg.batch_size, pairs=cfg.rerank_pairs, check=self._check
            )
        elif cfg.rerank_k:
            log.info(
                "no re-ranking: a model with losses %s has no matching head",
                exp.config.model.losses,
            )

    def _check(self) -> None:
        if self.should_stop():
            raise Interrupted

    def _run(self, encode: Callable, batches: Iterable[Batch], key: str, n: int, what: str) -> Any:
        """encode(array `key` of every batch), one array or several: their first n rows."""
        bar = tqdm(total=n, desc=what, unit=key.split("_")[0], leave=False, disable=None)
        out, done = None, 0
        with bar:
            for batch in batches:
                self._check()
                x = self.encoders.put_rows({key: batch[key]})[key]
                rows = jax.tree.map(np.asarray, encode(x))
                if out is None:
                    out = jax.tree.map(lambda x: np.empty((n, *x.shape[1:]), x.dtype), rows)
                count = min(len(x), n - done)
                for to, new in zip(jax.tree.leaves(out), jax.tree.leaves(rows), strict=True):
                    to[done : done + count] = new[:count]
                done += count
                bar.update(count)
        return out

    def features(
        self, params: Params, splits: Sequence[str], *, tokens: bool = False
    ) -> Iterator[tuple[str, SplitFeatures]]:
        """(split, features) of every split, images and captions in annotation order.

        Neighbouring splits with the same images, in several languages, share their encoding.
        tokens: also return the tokens of the images.
        """
        params = self.encoders.select(params)
        for _, group in groupby(splits, key=lambda split: id(self.data.splits[split].image_path)):
            images = None
            for split in group:
                images = images or self._images(params, split, tokens)
                yield split, SplitFeatures(images[0], self._texts(params, split), *images[1:])

    def _images(self, params: Params, split: str, tokens: bool) -> tuple[np.ndarray, ...]:
        """(features,) or (features, tokens) of a split's images."""
        encode = self.encoders.image_tokens if tokens else self.encoders.encode_image
        out = self._run(
            lambda x: encode(params, x),
            self.data.image_batches(split, self._rows),
            "image",
            len(self.data.splits[split].image_path),
            f"encode {split} gallery",
        )
        return out if tokens else (out,)

    def _texts(self, params: Params, split: str) -> np.ndarray:
        language = language_index(self.encoders.config.languages, self.data.splits[split].language)
        return self._run(
            lambda x: self.encoders.encode_text(params, x, language),
            self.data.text_batches(split, self._rows),
            "text_ids",
            len(self.data.splits[split].caption),
            f"encode {split} queries",
        )

    @property
    def _rows(self) -> np.ndarray:
        return process_rows(self.encoders.rows, self.config.eval.batch_size)

    def evaluate(self, params: Params, splits: Sequence[str]) -> Scores:
        """split -> {"t2i": {R1, R5, R10, mAP, mINP}, "i2t": ...} in percent.

        With re-ranking also "t2i_rerank", the second stage of Bi-IRRA, and with `eval.rerank_mix`
        "t2i_mix", whose "weight" is the share of the cosine.
        """
        tokens = self.reranker is not None
        features = self.features(params, splits, tokens=tokens)
        return {split: self._scores(params, split, found) for split, found in features}

    def _scores(self, params: Params, split: str, features: SplitFeatures) -> dict:
        cfg, annotations = self.config.eval, self.data.splits[split]
        options = dict(gallery=cfg.gallery, trapezoid_ap=cfg.trapezoid_ap)
        scores = distributed.from_writer(lambda: rank(features, annotations, **options))
        if self.reranker:
            scores |= self._rerank(self.reranker, params, split, features)
        return scores

    def _rerank(
        self, reranker: Reranker, params: Params, split: str, features: SplitFeatures
    ) -> dict[str, dict[str, float]]:
        """Text-to-image metrics of the matching head's order of each query's candidates.

        And of the order by its score and the cosine together, where the config asks for that.
        """
        cfg, annotations = self.config.eval, self.data.splits[split]
        gallery = gallery_images(
            annotations.caption_image_id, len(annotations.image_path), cfg.gallery
        )
        if cfg.rerank_k > len(gallery) and split not in self._told:
            self._told.add(split)
            log.info(
                "eval.rerank_k is %d, all %d images of %s are re-ranked",
                *(cfg.rerank_k, len(gallery), split),
            )
        began = time.perf_counter()
        # Process 0's for all of them: another machine may round a near-tie differently.
        candidates = multihost_utils.broadcast_one_to_all(
            cosine_candidates(features.text, features.image[gallery], cfg.rerank_k)
        )
        found = time.perf_counter()
        assert features.image_tokens is not None, "the features of a split without tokens"
        logits = reranker(
            self.encoders.select(params),
            self.data.text_batches(split, self._rows),
            features.image_tokens,
            gallery[candidates],
            split,
        )
        log_speed(split, candidates.shape, found - began, time.perf_counter() - found)
        match = match_score(logits, cfg.rerank_score)
        person = annotations.caption_person_id, annotations.image_person_id[gallery]

        def measure(score: np.ndarray) -> dict[str, float]:
            misses = cfg.gallery != "unique"
            ranks = candidate_ranks(candidates, score, *person, count_misses=misses)
            return metrics_from_ranks(ranks, trapezoid_ap=cfg.trapezoid_ap)

        measured = {"t2i_rerank": distributed.from_writer(lambda: measure(match))}
        if cfg.rerank_mix:
            cosine = candidate_cosines(features.text, features.image[gallery], candidates)
            mixed = functools.partial(mixed_score, match, cosine)
            measured["t2i_mix"] = self._mixed(split, lambda weight: measure(mixed(weight)))
        return measured

    def _mixed(self, split: str, measure: Callable[[float], dict[str, float]]) -> dict[str, float]:
        """The metrics of a split with the config's weight, or with the best one on val by mAP.

        Raises:
          ValueError: in every process, if the weight is to be chosen and val was not evaluated
            before.
        """
        mix, language = self.config.eval.rerank_mix, self.data.splits[split].language
        on_val = split.partition("_")[0] == "val"
        if mix != TUNED:
            weights = [mix]
        elif on_val:
            weights = WEIGHTS
        elif language in self._tuned:
            weights = [self._tuned[language]]
        else:
            raise ValueError(
                "eval.rerank_mix is -1, to choose the weight on val, but "
                f"{split} comes without val; add it to --config.eval.splits, or give a weight "
                "from 0 to 1"
            )
        found = distributed.from_writer(
            lambda: max(
                (measure(weight) | {"weight": float(weight)} for weight in weights),
                key=lambda metrics: metrics["mAP"],
            )
        )
        if mix == TUNED and on_val:
            self._tuned[language] = found["weight"]
        return found


def log_speed(split: str, shape: tuple[int, int], cosine: float, match: float) -> None:
    """One line about both stages; times in seconds."""
    queries, k = shape
    log.info(
        "re-rank %s: %d queries x %d candidates, %.0f pairs/s, %.1f ms per query (cosine %.2f ms)",
        *(split, queries, k, queries * k / match, 1e3 * match / queries, 1e3 * cosine / queries),
    )


def rank(
    features: SplitFeatures,
    annotations: Split,
    *,
    gallery: str = "unique",
    trapezoid_ap: bool = False,
) -> dict[str, dict[str, float]]:
    """Both directions' metrics from the features of a split.

    gallery: see `gallery_images`; with "every_second_row" a caption whose person the gallery lacks
    counts as a miss. trapezoid_ap: adds "mAP_trapezoid". An image of whom no caption tells is
    searched among, and asks for nothing itself.
    """
    rows = gallery_images(annotations.caption_image_id, len(annotations.image_path), gallery)
    image, image_person = features.image[rows], annotations.image_person_id[rows]
    text, text_person = features.text, annotations.caption_person_id
    options = dict(trapezoid_ap=trapezoid_ap, count_misses=gallery != "unique")
    told = np.isin(image_person, text_person)
    return {
        "t2i": retrieval_metrics(text, image, text_person, image_person, **options),
        "i2t": retrieval_metrics(image[told], text, image_person[told], text_person, **options),
    }


def example_sheets(
    found: Mapping[str, SplitFeatures], splits: Mapping[str, Split], count: int = 4
) -> dict[str, list[RetrievalSheet]]:
    """Rankings worth a look: `count` queries drawn at random and the `count` worst failures.

    They are of the first split in `found`; others, the same images described in other languages,
    show what becomes of one query in each.
    """
    split, *others = found
    features, annotations = found[split], splits[split]
    person = annotations.caption_person_id
    ranks = embedding_ranks(features.text, features.image, person, annotations.image_person_id)
    best = ranks.best_rank()
    drawn = np.random.default_rng(0).permutation(len(best))[:count]
    worst = np.argsort(-best, kind="stable")[:count]
    sheets = {
        "Queries drawn at random": [ranking_sheet(features, annotations, q) for q in drawn],
        "Worst failures": [ranking_sheet(features, annotations, q) for q in worst],
    }
    if others:
        sheets["One query in every language"] = [
            ranking_sheet(found[s], splits[s], drawn[0]) for s in found
        ]
    return sheets


def ranking_sheet(features: SplitFeatures, annotations: Split, query: int) -> RetrievalSheet:
    """The first ten images by cosine of one caption."""
    scores = l2_normalise(features.image) @ l2_normalise(features.text[query : query + 1])[0]
    top = np.argsort(-scores, kind="stable")[:10]
    right = annotations.image_person_id[top] == annotations.caption_person_id[query]
    picture = functools.partial(picture_of, annotations.image_path, annotations.image_box)
    return RetrievalSheet(
        query=annotations.caption[query],
        query_image_path=picture(int(annotations.caption_image_id[query])),
        ranked=[(picture(i), float(scores[i]), bool(r)) for i, r in zip(top, right, strict=True)],
    )
