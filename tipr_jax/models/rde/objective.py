"""What RDE trains on: augmented images and captions, and the loss of the pairs taken for clean.

Source: Qin et al., CVPR 2024, sections 3.2 and 3.3; model/objectives.py and datasets/bases.py in
the release.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from tipr_jax.augment.image import (
    ImageAugmentation,
    RandomErasing,
    augment_images,
    normalise,
    random_flip,
)
from tipr_jax.losses import per_pair
from tipr_jax.models.rde.config import Config
from tipr_jax.models.rde.division import CLEAN
from tipr_jax.models.rde.model import MEAN, STD, Embeddings, Rde

# `build_transforms` of datasets/build.py in the release, which is IRRA's.
AUGMENTATION = ImageAugmentation(
    mean=MEAN,
    std=STD,
    pad=10,
    erasing=RandomErasing(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 3.3), value=MEAN),
    flip_first=True,
)
TEXT_RATE = 0.2  # share of a caption's tokens that are changed
MASK_UNTIL, REPLACE_UNTIL = 0.6, 0.8  # cumulated shares of the changed tokens, see `change_words`


def prepare_inputs(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> dict:
    """Batch of the data contract -> what `objective` and `score` read.

    image float32 [B,H,W,3], normalised; text_ids int32 [B,L]; person_id int32 [B]; valid bool [B];
    clean float32 [B]. Runs on the device; a pure function of (batch, key).
    """
    image_key, text_key = jax.random.split(key)
    image, text_ids = batch["image"], batch["text_ids"]
    if config.augment:
        scale_pad = config.scale_crop_padding
        augmentation = dataclasses.replace(AUGMENTATION, scale_pad=scale_pad)
        image = augment_images(image, image_key, augmentation)
    else:  # the released transform without augmentation still flips
        image = normalise(random_flip(image, image_key), MEAN, STD)
    if config.augment_text:
        uniform_key, word_key = jax.random.split(text_key)
        uniform = jax.random.uniform(uniform_key, text_ids.shape)
        other = jax.random.randint(word_key, text_ids.shape, 1, config.mask_id, text_ids.dtype)
        text_ids = change_words(text_ids, uniform, other, config.mask_id)
    inputs = {"image": image, "text_ids": text_ids}
    return inputs | {name: batch[name] for name in ("person_id", "valid", CLEAN)}


def change_words(
    text_ids: jax.Array, uniform: jax.Array, replacement: jax.Array, mask_id: int
) -> jax.Array:
    """The law of the text augmentation, given its random numbers -> int [B,L].

    One number u per token decides twice: u < 0.2 changes the token, and v = u / 0.2 says how: to
    the mask (v < 0.6), to another token (v < 0.8), or it is removed and the rest moves up. So 12 %
    are masked, 4 % replaced and 4 % removed; the comments of the release state other numbers.

    Args:
      text_ids: int [B,L]. Words have ids in 1..mask_id-1; other ids (padding, start, end) stay.
      uniform: float [B,L] in [0, 1).
      replacement: int [B,L], random tokens from 1..mask_id-1.
      mask_id: id of the mask token.
    """
    chex.assert_rank(text_ids, 2)
    chex.assert_equal_shape((text_ids, uniform, replacement))
    changed = (text_ids > 0) & (text_ids < mask_id) & (uniform < TEXT_RATE)
    how = uniform / TEXT_RATE
    removed = changed & (how >= REPLACE_UNTIL)
    new_ids = jnp.where(how < MASK_UNTIL, mask_id, replacement)
    ids = jnp.where(removed, 0, jnp.where(changed, new_ids, text_ids))
    return jnp.take_along_axis(ids, jnp.argsort(removed, axis=1, stable=True), axis=1)


def objective(model: Rde, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    """Loss terms (names ending in `_loss`, to be summed) and the share of clean pairs.

    Noisy pairs have no loss of their own, but are negatives and positives of the others.

    inputs: see `prepare_inputs`.
    """
    if not config.losses:
        return {}
    rows = inputs["valid"] if config.batch_norm == "batch" else None
    clean = inputs[CLEAN] * inputs["valid"]
    losses = pair_losses(model, inputs, config, rows)
    terms = {f"{name}_loss": reduce_pairs(of, clean, config) for name, of in losses.items()}
    return terms | {"clean_share": jnp.sum(clean) / jnp.maximum(jnp.sum(inputs["valid"]), 1)}


def reduce_pairs(losses: jax.Array, clean: jax.Array, config: Config) -> jax.Array:
    """The loss of a batch, float32 []; losses float32 [B], clean float32 [B]: 0 or 1.

    TAL and TRL are summed over the batch, not averaged, as released: the learning rate and Adam's
    epsilon belong to that. InfoNCE and SDM are means over the clean pairs; without one they are 0
    (NaN in the release).
    """
    total = jnp.sum(jnp.where(clean > 0, clean * losses, 0))
    return total if config.losses[0] in ("tal", "trl") else total / jnp.maximum(jnp.sum(clean), 1)


def score(model: Rde, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    """The loss of every pair by each embedding, with running statistics: what divides the pairs."""
    if not config.losses:
        config = dataclasses.replace(config, losses=Config.losses)
    return pair_losses(model, inputs, config, None)


def pair_losses(
    model: Rde, inputs: dict[str, jax.Array], config: Config, rows: jax.Array | None
) -> dict[str, jax.Array]:
    """{"bge", "tse"}: float32 [B], the configured loss of each pair; rows as in `BatchNorm`."""
    image, text = (
        model.embed_image(inputs["image"], rows),
        model.embed_text(inputs["text_ids"], rows),
    )
    person_id, valid = inputs["person_id"], inputs["valid"]
    return {
        name: pair_loss(getattr(image, name), getattr(text, name), person_id, valid, config)
        for name in Embeddings._fields
    }


def pair_loss(
    image: jax.Array, text: jax.Array, person_id: jax.Array, valid: jax.Array, config: Config
) -> jax.Array:
    """The configured loss of each pair from one kind of embeddings [B,C]: float32 [B]."""
    (name,) = config.losses
    hinge = {"tau": config.tau, "margin": config.margin}
    scale = 1 / config.temperature
    match name:
        case "tal":
            return per_pair.tal(image, text, person_id, valid, **hinge)
        case "trl":
            return per_pair.trl(image, text, person_id, valid, **hinge)
        case "infonce":
            return per_pair.infonce(image, text, valid, logit_scale=scale)
    return per_pair.sdm(image, text, person_id, valid, logit_scale=scale)
