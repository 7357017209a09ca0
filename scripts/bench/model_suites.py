"""Suites train_step and encode: the real jitted step and encoders of a model, against the twin."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bench.measure import Call, Case
from configs import irra as irra_config
from tipr_jax import experiment, trainer
from tipr_jax.analysis import cost
from tipr_jax.batch import synthetic_batch
from tipr_jax.inference.encoders import Encoders
from tipr_jax.sharding import put_batch
from tipr_jax.train_state import create_state

VARIANTS = {
    "debug": "debug",
    "quickstart": "quickstart",
    "vit_b16": "cuhk_pedes",
    "vit_l14": "cuhk_pedes",
}
VIT_L14 = {
    "patch": 14,
    "stride": 14,
    "vision_width": 1024,
    "vision_depth": 24,
    "text_width": 768,
    "embed_dim": 768,
}


def load_config(model: str, batch: int, precision: str) -> Any:
    """A run's config; batch 0 keeps the config's batch size."""
    config = irra_config.get_config(VARIANTS[model])
    if model == "vit_l14":
        config.model.update(VIT_L14)
    if model == "debug":  # without the wide vocabulary
        config.model.vocab_size, config.model.num_persons = 512, 8
    config.data.batch_size = batch or config.data.batch_size
    config.eval.batch_size = config.data.batch_size
    config.precision = precision
    return config


def make_batch(exp: experiment.Experiment) -> dict[str, np.ndarray]:
    c = exp.model_config
    return synthetic_batch(
        exp.config.data.batch_size,
        c.image_size,
        c.text_length,
        vocab_size=c.vocab_size,
        num_persons=c.num_persons,
    )


def train_call(exp: experiment.Experiment, steps: int) -> Call:
    """`steps` steps as in training: a host batch of uint8 goes to the device, the state returns."""
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=1000)
    abstract = experiment.abstract_state(exp, optimizer)
    step = trainer.jit_train_step(exp, optimizer, abstract)
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    make = jax.jit(lambda p: create_state(p, optimizer), out_shardings=layout, donate_argnums=0)
    state, batch = make(experiment.initial_params(exp)), make_batch(exp)

    def call() -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, put_batch(batch, exp.batch_sharding))
        jax.block_until_ready(metrics)

    return call


def encode_calls(exp: experiment.Experiment) -> dict[str, Call]:
    encoders = Encoders.of_experiment(experiment.for_inference(exp))
    params = encoders.select(experiment.initial_params(exp))
    batch = put_batch(make_batch(exp), exp.batch_sharding)
    image, text = batch["image"], batch["text_ids"]
    return {
        "image": lambda: jax.block_until_ready(encoders.encode_image(params, image)),
        "text": lambda: jax.block_until_ready(encoders.encode_text(params, text, 0)),
    }


def train_step_cases(options: Any) -> Iterator[Case]:
    """One case per batch size; a call is `options.steps` steps."""
    for batch in options.batch:
        exp = experiment.build(load_config(options.model, batch, options.precision))
        size, steps = exp.config.data.batch_size, options.steps
        twins = {r: _twin(exp, r).train_call(steps) for r in options.recipes}
        yield Case(
            "train_step",
            "train step",
            rows=steps * size,
            ours=train_call(exp, steps),
            twins=twins,
            model=options.model,
            batch=size,
            settle=True,
            flops=steps * cost.train_step_flops(exp, experiment.abstract_batch(exp)),
        )


def encode_cases(options: Any) -> Iterator[Case]:
    """Both towers at every batch size, from the device's memory, without gradients."""
    for batch in options.batch:
        exp = experiment.build(load_config(options.model, batch, options.precision))
        twins = {recipe: _twin(exp, recipe).encode_calls() for recipe in options.recipes}
        if options.recipes and jax.default_backend() == "cpu":
            from bench import onnx_twin

            twins["onnxruntime-fair"] = onnx_twin.encode_calls(_twin(exp, "float32-fair"))
        size, shapes = exp.config.data.batch_size, experiment.abstract_batch(exp)
        inputs = {"image": shapes["image"], "text": shapes["text_ids"]}
        for tower, call in encode_calls(exp).items():
            yield Case(
                "encode",
                f"encode {tower}",
                rows=size,
                ours=call,
                twins={recipe: calls[tower] for recipe, calls in twins.items()},
                model=options.model,
                batch=size,
                flops=cost.encode_flops(exp, f"encode_{tower}", inputs[tower]),
                settle=True,
            )


def _twin(exp: experiment.Experiment, recipe: str) -> Any:
    from torch_twin import Twin

    return Twin(exp.model_config, make_batch(exp), recipe)
