"""The toy paper's model: small towers with a batch norm, a matching head, weights for the pairs.

Before each epoch it divides the training pairs by their similarity: the farther half weighs less.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tipr_jax.batch import Column, ColumnSpec, PairIndex, Values
from tipr_jax.losses.contrastive import itc_loss, l2_normalise
from tipr_jax.losses.matching import matching_loss
from tipr_jax.models.method import EpochHook, Method, ModelConfig, from_positions, from_shapes
from tipr_jax.precision import ComputePolicy
from toy_paper.columns import WordCount

LOSSES = ("pair", "itm")


@dataclasses.dataclass(frozen=True)
class Config(ModelConfig):
    image_size: tuple[int, int] = from_positions((32, 16))
    patch: int = from_shapes(8)
    width: int = from_shapes(16)
    text_length: int = from_positions(24)
    vocab_size: int = from_shapes(300)
    losses: tuple[str, ...] = LOSSES
    far_weight: float = 0.5

    @property
    def can_match(self) -> bool:
        return "itm" in self.losses

    def complete(self) -> "Config":
        return dataclasses.replace(self, losses=LOSSES)

    def for_inference(self) -> "Config":
        return dataclasses.replace(self, losses=("itm",) if self.can_match else ())


class Toy(nnx.Module):
    def __init__(self, config: Config, policy: ComputePolicy, *, rngs: nnx.Rngs):
        c, self.patch = config, config.patch
        self.image_proj = nnx.Linear(3 * c.patch**2, c.width, rngs=rngs)
        self.image_norm = nnx.BatchNorm(c.width, momentum=0.9, rngs=rngs)
        self.word_embed = nnx.Embed(c.vocab_size, c.width, rngs=rngs)
        self.text_proj = nnx.Linear(c.width, c.width, rngs=rngs)
        if c.can_match:
            self.match_head = nnx.Linear(2 * c.width, 2, rngs=rngs)

    def image_tokens(self, image: jax.Array) -> jax.Array:
        b, h, w, _ = image.shape
        p = self.patch
        cut = (image / 255 - 0.5).reshape(b, h // p, p, w // p, p, 3).transpose(0, 1, 3, 2, 4, 5)
        tokens = self.image_proj(cut.reshape(b, -1, 3 * p * p))
        return jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)

    def image_feature(self, tokens: jax.Array, training: bool = False) -> jax.Array:
        normed = self.image_norm(tokens[:, 0].astype(jnp.float32), use_running_average=not training)
        return normed.astype(jnp.float32)

    def text_mask(self, text_ids: jax.Array) -> jax.Array:
        return (text_ids != 0) | (jnp.arange(text_ids.shape[-1]) == 0)

    def text_tokens(self, text_ids: jax.Array) -> jax.Array:
        return self.text_proj(self.word_embed(text_ids))

    def text_feature(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        weight = mask[..., None].astype(jnp.float32)
        return (tokens * weight).sum(axis=1) / weight.sum(axis=1)

    def encode_image(self, image: jax.Array) -> jax.Array:
        return self.image_feature(self.image_tokens(image))

    def encode_text(self, text_ids: jax.Array, language: int = 0) -> jax.Array:
        return self.text_feature(self.text_tokens(text_ids), self.text_mask(text_ids))

    def match(self, image_tokens: jax.Array, text_tokens: jax.Array, mask: jax.Array) -> jax.Array:
        text = self.text_feature(text_tokens, mask)
        both = jnp.concatenate([image_tokens[:, 0], text], axis=-1)
        return self.match_head(both.astype(jnp.float32))


def columns(config: Config) -> tuple[ColumnSpec, ...]:
    return WordCount(), PairIndex()


def prepare_inputs(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> dict:
    noise = jax.random.uniform(key, batch["image"].shape, minval=-8, maxval=8)
    image = batch["image"].astype(jnp.float32) + noise
    names = ("text_ids", "person_id", "valid", "word_count", "pair_weight")
    return {"image": image, **{name: batch[name] for name in names}}


def features(model: Toy, inputs: dict[str, jax.Array], *, training: bool) -> tuple:
    image_tokens = model.image_tokens(inputs["image"])
    text_tokens, mask = model.text_tokens(inputs["text_ids"]), model.text_mask(inputs["text_ids"])
    image = model.image_feature(image_tokens, training)
    return image, model.text_feature(text_tokens, mask), image_tokens, text_tokens, mask


def objective(model: Toy, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    image, text, image_tokens, text_tokens, mask = features(model, inputs, training=True)
    terms = {}
    valid = inputs["valid"]
    if "pair" in config.losses:
        similarity = jnp.sum(l2_normalise(image) * l2_normalise(text), axis=-1)
        weight = inputs["pair_weight"] * valid * inputs["word_count"]
        pulled = jnp.sum(weight * (1 - similarity)) / jnp.maximum(weight.sum(), 1)
        terms["pair_loss"] = pulled + itc_loss(image, text, logit_scale=10.0, valid=valid)
    if "itm" in config.losses:
        other = jnp.roll(image_tokens, 1, axis=0)
        logits = [model.match(x, text_tokens, mask) for x in (image_tokens, other, other)]
        loss, accuracy = matching_loss(jnp.stack(logits, axis=1), valid)
        terms |= {"itm_loss": loss, "itm_accuracy": accuracy}
    return terms


def score(model: Toy, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    image, text, *_ = features(model, inputs, training=False)
    return {"distance": 1 - jnp.sum(l2_normalise(image) * l2_normalise(text), axis=-1)}


def summarise(
    scores: dict[str, np.ndarray], epoch: int, seed: int, config: Config
) -> dict[str, np.ndarray]:
    far = scores["distance"] > np.median(scores["distance"])
    return {"pair_weight": np.where(far, config.far_weight, 1.0).astype(np.float32)}


def pair_arrays(config: Config) -> dict[str, Column]:
    return {"pair_weight": Column((), np.float32, Values.NUMBER, padding=1)}


METHOD = Method(
    config=Config,
    model=Toy,
    prepare_inputs=prepare_inputs,
    objective=objective,
    columns=columns,
    tokenizer="wordpiece",
    epoch_hook=EpochHook(score, summarise, pair_arrays),
)
