"""Evaluation: encode gallery and queries in padded, sharded batches, then rank by cosine.

Every process encodes its rows of each batch and gets all features; process 0 ranks.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from tipr_jax import distributed
from tipr_jax.experiment import Experiment, towers
from tipr_jax.metrics.retrieval import embedding_ranks, gallery_images, retrieval_metrics, unit_rows
from tipr_jax.report import RetrievalSheet
from tipr_jax.sharding import process_rows, put_batch


class SplitFeatures(NamedTuple):
    """Un-normalised features of one split: images [G,C] and captions [Q,C], float32."""

    image: np.ndarray
    text: np.ndarray


class Interrupted(Exception):
    """An evaluation was asked to stop."""


class Evaluator:
    """Encodes splits with jitted encoders; one instance serves a whole run.

    `should_stop` is asked before every batch; True ends the evaluation with `Interrupted`.
    """

    def __init__(self, exp: Experiment, data: Any, should_stop: Callable[[], bool] = lambda: False):
        self.exp, self.data, self.should_stop = towers(exp), data, should_stop
        self.encode_image = self._jit("encode_image")
        self.encode_text = self._jit("encode_text")

    def _jit(self, method: str) -> Callable[[Any, jax.Array], jax.Array]:
        exp = self.exp

        def encode(params: Any, x: jax.Array) -> jax.Array:
            return getattr(nnx.merge(exp.graphdef, params), method)(x)

        return jax.jit(
            encode,
            in_shardings=(exp.param_shardings, exp.batch_sharding),
            out_shardings=exp.replicated,
        )

    def tower_params(self, params: Any) -> Any:
        """Those of a model's parameters that the encoders read."""
        return {name: params[name] for name in self.exp.abstract_params}

    def _run(self, encode: Callable, params: Any, batches: Iterable, key: str, n: int, what: str):
        bar = tqdm(total=n, desc=what, unit=key.split("_")[0], leave=False, disable=None)
        rows = []
        with bar:
            params = self.tower_params(params)
            for batch in batches:
                if self.should_stop():
                    raise Interrupted
                x = put_batch({key: batch[key]}, self.exp.batch_sharding)[key]
                rows.append(np.asarray(encode(params, x)))
                bar.update(min(len(rows[-1]), n - bar.n))
        return np.concatenate(rows)[:n]

    def features(self, params: Any, split: str) -> SplitFeatures:
        """Encodes every image and every caption of a split, in annotation order."""
        annotations = self.data.splits[split]
        rows = process_rows(self.exp.batch_sharding, self.exp.config.eval.batch_size)
        return SplitFeatures(
            image=self._run(
                self.encode_image,
                params,
                self.data.image_batches(split, rows),
                "image",
                len(annotations.image_path),
                f"encode {split} gallery",
            ),
            text=self._run(
                self.encode_text,
                params,
                self.data.text_batches(split, rows),
                "text_ids",
                len(annotations.caption),
                f"encode {split} queries",
            ),
        )

    def metrics(self, params: Any, split: str) -> dict[str, dict[str, float]]:
        """{"t2i": {R1, R5, R10, mAP, mINP}, "i2t": ...} in percent (spec irra §7)."""
        features = self.features(params, split)
        cfg = self.exp.config.eval
        options = dict(gallery=cfg.gallery, trapezoid_ap=cfg.trapezoid_ap)
        return distributed.from_writer(lambda: rank(features, self.data.splits[split], **options))


def rank(
    features: SplitFeatures,
    annotations: Any,
    *,
    gallery: str = "unique",
    trapezoid_ap: bool = False,
) -> dict[str, dict[str, float]]:
    """Both directions' metrics from the features of a split.

    gallery: see `gallery_images`; with "every_second_row" a caption whose person the gallery lacks
    counts as a miss. trapezoid_ap: adds "mAP_trapezoid".
    """
    rows = gallery_images(annotations.caption_image_id, len(annotations.image_path), gallery)
    image, image_person = features.image[rows], annotations.image_person_id[rows]
    text, text_person = features.text, annotations.caption_person_id
    options = dict(trapezoid_ap=trapezoid_ap, count_misses=gallery != "unique")
    return {
        "t2i": retrieval_metrics(text, image, text_person, image_person, **options),
        "i2t": retrieval_metrics(image, text, image_person, text_person, **options),
    }


def example_sheets(
    features: SplitFeatures, annotations: Any, count: int = 4
) -> dict[str, list[RetrievalSheet]]:
    """Rankings worth a look: `count` queries drawn at random and the `count` worst failures."""
    image, text = map(unit_rows, features)
    person = annotations.caption_person_id
    ranks = embedding_ranks(text, image, person, annotations.image_person_id).best_rank()

    def sheet(query: int) -> RetrievalSheet:
        scores = image @ text[query]
        top = np.argsort(-scores, kind="stable")[:10]
        right = annotations.image_person_id[top] == person[query]
        paths = [annotations.image_path[i] for i in top]
        return RetrievalSheet(
            query=annotations.caption[query],
            query_image_path=annotations.image_path[annotations.caption_image_id[query]],
            ranked=list(zip(paths, scores[top].tolist(), right.tolist(), strict=True)),
        )

    drawn = np.random.default_rng(0).permutation(len(ranks))[:count]
    worst = np.argsort(-ranks, kind="stable")[:count]
    return {
        "Queries drawn at random": [sheet(q) for q in drawn],
        "Worst failures": [sheet(q) for q in worst],
    }
