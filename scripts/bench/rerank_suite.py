"""Suite rerank: pairs per second of the matching head on candidates, as in an evaluation."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bench.measure import Case
from configs import bi_irra as bi_irra_config
from tipr_jax import experiment
from tipr_jax.batch import synthetic_batch
from tipr_jax.inference.encoders import Encoders
from tipr_jax.inference.rerank import Reranker

# Queries, gallery images, candidates.
SIZES = {"debug": (8, 12, 4), "quickstart": (1000, 400, 256)}
FULL = (1000, 3074, 256)
VARIANTS = {"debug": "debug", "quickstart": "quickstart"}  # of others: the published model


def cases(options: Any) -> Iterator[Case]:
    queries, images, k = SIZES.get(options.model, FULL)
    config = bi_irra_config.get_config(VARIANTS.get(options.model, "cuhk_pedes"))
    config.precision = options.precision
    config.model.losses = ("itc", "itm")
    config.eval.batch_size = 8 if options.tiny else config.eval.batch_size
    exp = experiment.for_inference(experiment.build(config))
    encoders, size = Encoders.of_experiment(exp), config.eval.batch_size
    reranker = Reranker(encoders, text_rows=size, pairs=config.eval.rerank_pairs)
    params, c = encoders.select(experiment.initial_params(exp)), exp.model_config
    batch = synthetic_batch(
        size, c.image_size, c.text_length, vocab_size=c.vocab_size, num_persons=1
    )
    rng = np.random.default_rng(0)
    shape = jax.eval_shape(encoders.image_tokens, params, batch["image"])[1]
    tokens = rng.standard_normal((images, *shape.shape[1:]), np.float32).astype(shape.dtype)
    candidates = np.stack([rng.permutation(images)[:k] for _ in range(queries)])
    batches = [batch] * -(-queries // size)
    yield Case(
        "rerank",
        f"rerank {queries} x {k} of {images}",
        rows=queries * k,
        ours=lambda: reranker(params, batches, tokens, candidates),
        model=options.model,
        batch=config.eval.rerank_pairs,
        rounds=1,  # a CPU scores thousands of pairs per second of the quickstart's model
    )
