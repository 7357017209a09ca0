"""Bi-IRRA's training: which tokens each loss reads, and the losses (sections III-B to III-D)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tipr_jax.augment.image import normalise
from tipr_jax.augment.rand_augment import rand_augment
from tipr_jax.losses.classification import cross_entropy
from tipr_jax.losses.contrastive import sdm_loss
from tipr_jax.losses.distill import attention_divergence, cosine_distance, smooth_l1_distance
from tipr_jax.losses.matching import hard_negatives, matching_loss, soft_itc_loss, take_rows
from tipr_jax.models.bi_irra.config import SIDES, Config
from tipr_jax.models.bi_irra.model import AUGMENTATION, MEAN, STD, BiIrra, text_mask
from tipr_jax.nn.bert import token_0
from tipr_jax.nn.dropout import fold_in
from tipr_jax.nn.interleave import deinterleave, interleave, interleaved_keys

NEGATIVE_FLOOR = 1e-5  # added to the softmax that negatives are drawn from

# What a row's random key is folded with, so that no two draws share numbers.
IMAGE, TEXT, READ_IMAGE, READ_MASKED, TEACHER, STUDENT, NEGATIVES = range(7)


def prepare_inputs(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> dict:
    """Batch of the data contract -> what `objective` reads. A pure function of (batch, key).

    batch: image uint8 [B,H,W,3]; text_ids and target_ids int [B,L]; person_id, image_id,
    target_language (index into the config's languages) int [B]; valid bool [B]. For masked words
    mlm_ids and target_mlm_ids [B,L], mlm_positions and target_mlm_positions [B,M] (padded with 0),
    mlm_labels and target_mlm_labels [B,M] (-100: no label). For masked images patch_mask bool
    [B,P].

    Returns the same with the images augmented and normalised, and row_key uint32 [B,2], from which
    every later draw comes.
    """
    image_key, row_key = jax.random.split(key)
    if config.augment:
        image = rand_augment(batch["image"], image_key, AUGMENTATION)
    else:
        image = normalise(batch["image"], MEAN, STD)
    keys = jax.random.split(row_key, len(batch["valid"]))
    inputs = {"image": image, "row_key": jax.random.key_data(keys)}
    names = ["text_ids", "target_ids", "target_language", "person_id", "image_id", "valid"]
    if config.masked("text"):
        names += ["mlm_ids", "target_mlm_ids"]
    if "mlm" in config.losses:
        names += ["mlm_positions", "target_mlm_positions"]
        for name in ("mlm_labels", "target_mlm_labels"):
            inputs[name] = jnp.where(batch["valid"][:, None], batch[name], -100)
    if config.masked("image"):
        names.append("patch_mask")
    return inputs | {name: batch[name] for name in names}


def objective(model: BiIrra, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    """Loss terms (names ending in `_loss`, weighted, to be summed) and accuracies.

    inputs: as `prepare_inputs` returns them. The negatives of ITM are drawn, unless inputs bring
    negative_image_source, negative_text_source, and the same of the target, int [B].
    """
    c, losses = config, config.losses
    tokens = encode(model, inputs, c)
    terms = {}
    if "itc" in losses:
        terms |= itc_terms(model, tokens, inputs, c)
    if "sdm" in losses:
        terms["sdm_loss"] = c.sdm_weight * sdm(model, tokens, inputs, c)
    if "id" in losses:
        terms["id_loss"] = c.id_weight * identity(model, tokens, inputs)
    if "itm" in losses:
        terms |= itm_terms(model, tokens, inputs, c)
    if "mlm" in losses:
        terms |= mlm_terms(model, tokens, inputs, c)
    if "mim" in losses:
        terms["mim_loss"] = c.mim_weight * sum(
            distance(model, tokens, inputs, c, teacher, student) for teacher, student in c.mim_pairs
        )
    return terms


class Tokens(NamedTuple):
    """What the two towers give for a batch; "masked" only where a loss reads it.

    image: "clean" | "masked" -> [B,1+P,D]; text: (side, "clean" | "masked") -> [B,L,D];
    mask: side -> bool [B,L]; keys [B]: random keys of the rows.
    """

    image: dict[str, jax.Array]
    text: dict[tuple[str, str], jax.Array]
    mask: dict[str, jax.Array]
    keys: jax.Array

    def pair(self, side: str, masked: str) -> tuple[jax.Array, jax.Array]:
        """(image tokens, text tokens), of which `masked` "image", "text" or "none" is masked."""
        image = self.image["masked" if masked == "image" else "clean"]
        return image, self.text[side, "masked" if masked == "text" else "clean"]


def encode(model: BiIrra, inputs: dict[str, jax.Array], config: Config) -> Tokens:
    """One pass of each tower over everything the losses read."""
    keys = jax.random.wrap_key_data(inputs["row_key"])
    image_keys = fold_in(keys, IMAGE)
    if config.masked("image"):
        views = model.image_encoder.clean_and_masked(
            inputs["image"], inputs["patch_mask"], image_keys
        )
    else:
        views = (model.image_encoder(inputs["image"], image_keys),)
    ids = {("source", "clean"): inputs["text_ids"], ("target", "clean"): inputs["target_ids"]}
    mask = {side: text_mask(ids[side, "clean"]) for side in SIDES}
    if config.masked("text"):
        ids["source", "masked"] = inputs["mlm_ids"]
        ids["target", "masked"] = inputs["target_mlm_ids"]
    text = model.text_encoder(
        interleave(list(ids.values())),
        interleave([mask[side] for side, _ in ids]),
        keys=interleaved_keys(fold_in(keys, TEXT), len(ids)),
        rate=config.dropout,
    )
    return Tokens(
        image=dict(zip(("clean", "masked"), views, strict=False)),
        text=dict(zip(ids, deinterleave(text, len(ids)), strict=True)),
        mask=mask,
        keys=keys,
    )


def features(
    model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array], side: str, masked: str = "none"
) -> tuple[jax.Array, jax.Array]:
    """Image and text features of one side, of L2 norm 1, float32 [B,C]."""
    image, text = tokens.pair(side, masked)
    language = 0 if side == "source" else inputs["target_language"]
    return unit(model.image_feature(image)), unit(model.text_feature(text, language))


def unit(x: jax.Array) -> jax.Array:
    """Rows [B,C] divided by their L2 norm, which is at least 1e-12."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def scale_gradient(x: jax.Array, scale: float) -> jax.Array:
    """x, whose gradient is multiplied by `scale`."""
    return scale * x + jax.lax.stop_gradient((1 - scale) * x)


def itc_terms(
    model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array], config: Config
) -> dict[str, jax.Array]:
    """Bi-lingual ITC of the paper: all images and captions of a person are positives."""
    temperature = model.learned_temperature(config)

    def one(side: str) -> jax.Array:
        pair = features(model, tokens, inputs, side, getattr(config, f"itc_mask_{side}"))
        image, text = (scale_gradient(x, config.itc_feature_grad_scale) for x in pair)
        ids, valid = inputs["person_id"], inputs["valid"]
        return soft_itc_loss(image, text, ids, scale=1 / temperature, valid=valid)

    loss = config.itc_weight * (one("source") + one("target")) / 2
    return {"itc_loss": loss, "temperature": temperature}


def sdm(model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array], config: Config) -> jax.Array:
    """Similarity distribution matching as in IRRA, the sum over both languages (an ablation)."""
    scale = 1 / config.sdm_temperature

    def one(side: str) -> jax.Array:
        image, text = features(model, tokens, inputs, side)
        ids, valid = inputs["person_id"], inputs["valid"]
        return sdm_loss(image, text, ids, logit_scale=scale, valid=valid)

    return one("source") + one("target")


def identity(model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array]) -> jax.Array:
    """Mean identity cross-entropy of the image, the source and the target features."""
    image, source = features(model, tokens, inputs, "source")
    _, target = features(model, tokens, inputs, "target")

    def one(feature: jax.Array) -> jax.Array:
        logits = model.classifier(feature)
        return cross_entropy(logits, inputs["person_id"], inputs["valid"])[0]

    return (one(image) + one(source) + one(target)) / 3


class Reading(NamedTuple):
    """Text tokens [B,L,D] with their mask bool [B,L] that read image tokens [B,1+P,D]."""

    text: jax.Array
    mask: jax.Array
    image: jax.Array


def fuse(
    model: BiIrra,
    readings: Sequence[Reading],
    at: Sequence[jax.Array],
    keys: jax.Array | None,
    rate: float,
) -> tuple[jax.Array, ...]:
    """Of every reading, the fused text tokens [B,N,D] at positions int [B,N]; keys [B]."""
    count = len(readings)
    text, mask, image = (interleave(parts) for parts in zip(*readings, strict=True))
    keys = interleaved_keys(keys, count)
    fused = model.fusion(text, image, mask, keys=keys, rate=rate, at=interleave(at))
    return deinterleave(fused, count)


def itm_terms(
    model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array], config: Config
) -> dict[str, jax.Array]:
    """Bi-lingual A-ITM of the paper: pairs and hard negatives, told apart by fused token 0."""
    readings = [
        reading for side in SIDES for reading in match_readings(model, tokens, inputs, config, side)
    ]
    at = [token_0(tokens.keys)] * len(readings)
    fused = fuse(model, readings, at, fold_in(tokens.keys, READ_IMAGE), config.dropout)
    logits = model.itm_head(jnp.concatenate(fused, axis=1))  # B 6 2
    both = [matching_loss(x, inputs["valid"]) for x in (logits[:, :3], logits[:, 3:])]
    loss, accuracy = jnp.mean(jnp.asarray(both), axis=0)
    return {"itm_loss": config.itm_weight * loss, "itm_accuracy": accuracy}


def match_readings(
    model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array], config: Config, side: str
) -> list[Reading]:
    """The pairs, each text with a hard negative image, each image with a hard negative text."""
    masked = getattr(config, f"itm_mask_{side}")
    image, text = tokens.pair(side, masked)
    mask, size = tokens.mask[side], group_size(len(image), config)
    if f"negative_image_{side}" in inputs:
        other_image, other_text = (inputs[f"negative_{k}_{side}"] for k in ("image", "text"))
    else:
        other_image, other_text = hard_negatives(
            *features(model, tokens, inputs, side, masked),
            inputs["person_id"],
            fold_in(tokens.keys, NEGATIVES + SIDES.index(side)),
            scale=1 / model.learned_temperature(config),
            valid=inputs["valid"],
            epsilon=NEGATIVE_FLOOR,
            group_size=size,
        )
    return [
        Reading(text, mask, image),
        Reading(text, mask, take_rows(image, other_image, size)),
        Reading(take_rows(text, other_text, size), take_rows(mask, other_text, size), image),
    ]


def group_size(batch_size: int, config: Config) -> int:
    """Rows that share negatives: `itm_group_size`, or the whole of a smaller batch."""
    size = min(config.itm_group_size, batch_size)
    if batch_size % size:
        raise ValueError(
            f"the batch of {batch_size} cannot be cut into groups of {size} for hard negatives; "
            "choose a multiple, or another --config.model.itm_group_size"
        )
    return size


def mlm_terms(
    model: BiIrra, tokens: Tokens, inputs: dict[str, jax.Array], config: Config
) -> dict[str, jax.Array]:
    """Bi-lingual MLM of the paper: masked words of both captions, recovered with the image."""
    prefixes = dict(zip(SIDES, ("", "target_"), strict=True))
    image = tokens.image["clean"]
    readings = [Reading(tokens.text[s, "masked"], tokens.mask[s], image) for s in SIDES]
    at = [inputs[f"{prefixes[side]}mlm_positions"] for side in SIDES]
    fused = fuse(model, readings, at, fold_in(tokens.keys, READ_MASKED), config.dropout)
    labels = [inputs[f"{prefixes[side]}mlm_labels"] for side in SIDES]
    both = [masked_words(model, *words) for words in zip(fused, labels, strict=True)]
    loss, accuracy = jnp.sum(jnp.asarray(both), axis=0)
    return {"mlm_loss": config.mlm_weight * loss, "mlm_accuracy": accuracy / 2}


def masked_words(model: BiIrra, fused: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss and accuracy of fused tokens [B,M,D] over their labels int [B,M] that are not -100."""

    # The logits over 250,002 words are computed again in the backward pass: about 1 % more work
    # that saves 2 GB per language at the published batch.
    @jax.checkpoint
    def run(model: BiIrra, fused: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = word_logits(model, fused)
        return cross_entropy(logits, jnp.maximum(labels, 0), labels >= 0)

    return run(model, fused)


def word_logits(model: BiIrra, fused: jax.Array) -> jax.Array:
    """Vocabulary logits [B,M,V] of fused tokens [B,M,D]."""
    tied = None if hasattr(model.mlm_head, "word") else model.text_encoder.embed.word[...]
    return model.mlm_head(fused, tied)


def distance(
    model: BiIrra,
    tokens: Tokens,
    inputs: dict[str, jax.Array],
    config: Config,
    teacher: str,
    student: str,
) -> jax.Array:
    """Cross-lingual D-MIM of the paper: masked image, one language; clean image, the other.

    The teacher is the same network in the same train mode, without gradient.
    """
    frozen, valid = jax.lax.stop_gradient(model.fusion), inputs["valid"]

    def read(call: Callable[..., Any], image: str, side: str, use: int) -> Any:
        """The image reads the clean text of a side."""
        return call(
            tokens.image[image],
            tokens.text[side, "clean"],
            None,
            context_mask=tokens.mask[side],
            keys=fold_in(tokens.keys, use),
            rate=config.dropout,
        )

    if config.mim_target == "attention":
        goals = read(frozen.last_attention_weights, "clean", teacher, TEACHER)
        guesses = read(model.fusion.last_attention_weights, "masked", student, STUDENT)
        own, cross = (
            attention_divergence(t, s, valid) for t, s in zip(goals, guesses, strict=True)
        )
        return own + cross
    at = token_0(valid) if config.mim_target == "cls" else None
    goal = read(partial(frozen, at=at), "clean", teacher, TEACHER)
    guess = model.mim_head(read(partial(model.fusion, at=at), "masked", student, STUDENT))
    measure = {"cos": cosine_distance, "smooth_l1": smooth_l1_distance}[config.mim_loss]
    return measure(goal, guess, valid)
