"""IRRA: implicit relation reasoning and aligning (Jiang and Ye, CVPR 2023, arXiv 2303.12501).

Two CLIP towers trained with similarity distribution matching, an identity classifier shared by
both modalities, and a fusion encoder that recovers masked words from the image. Only the towers
are used at test time.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.augment.image import (
    ImageAugmentation,
    RandomErasing,
    augment_images,
    normalise,
    random_flip,
)
from tipr_jax.augment.masking import mask_tokens
from tipr_jax.losses.classification import identity_loss
from tipr_jax.losses.contrastive import cmpm_loss, in_groups, itc_loss, sdm_loss
from tipr_jax.losses.masked_words import masked_word_loss
from tipr_jax.models.method import (
    Adopted,
    Method,
    ModelConfig,
    Params,
    Parts,
    from_positions,
    from_shapes,
    with_resized,
    without_other_shapes,
)
from tipr_jax.nn.clip_text import ClipText, end_token
from tipr_jax.nn.fusion import FusionEncoder, Unfinished
from tipr_jax.nn.init import normal, uniform_fan_in, zeros
from tipr_jax.nn.pos_embed import first_positions, patch_grid, resize_pos_embed
from tipr_jax.nn.transformer import ACTIVATIONS, dense, layer_norm, quick_gelu
from tipr_jax.nn.vit import VisionTransformer
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED, VOCAB

LOSSES = ("sdm", "id", "mlm", "itc", "cmpm")

# `build_transforms` of datasets/build.py in the release. The erased pixels hold CLIP's mean,
# although the image is normalised already.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
AUGMENTATION = ImageAugmentation(
    mean=MEAN,
    std=STD,
    pad=10,
    erasing=RandomErasing(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 3.3), value=MEAN),
    flip_first=True,
)


@dataclasses.dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes, losses and switches of IRRA; the defaults are the published run on CUHK-PEDES."""

    image_size: tuple[int, int] = from_positions((384, 128))
    patch: int = from_shapes(16)
    stride: int = from_positions(16)
    vision_width: int = from_shapes(768)
    vision_depth: int = from_shapes(12)
    text_width: int = from_shapes(512)
    text_depth: int = from_shapes(12)
    text_length: int = from_positions(77)
    vocab_size: int = from_shapes(49408)  # the last three ids are mask, start and end
    embed_dim: int = from_shapes(512)
    # Towers that are not OpenAI's (LAION's, DataComp's): other heads, other feed-forward layers
    # (hidden width 0: four times the width), and the exact "gelu".
    vision_head_dim: int = from_shapes(64)
    text_head_dim: int = from_shapes(64)
    vision_hidden: int = from_shapes(0)
    text_hidden: int = from_shapes(0)
    activation: str = from_shapes("quick_gelu")
    fusion_depth: int = from_shapes(4)
    num_persons: int = from_shapes(11003, "classifier/bias")  # classes of the identity loss

    losses: tuple[str, ...] = ("sdm", "mlm", "id")  # empty: the two towers alone
    temperature: float = 0.02  # paper and released code: constant, never learned
    learn_temperature: bool = False  # ITC learns its scale (ours; for random weights)
    sdm_weight: float = 1.0
    itc_weight: float = 1.0
    id_weight: float = 1.0
    mlm_weight: float = 1.0
    # SDM labels: pairs of one person but of different images weigh this; None = identity labels
    # only, as published.
    image_id_factor: float | None = None
    # True: all losses see the masked captions, as the released code does through an aliasing bug
    # that its published results contain. False: as the paper says, only the MLM loss does.
    mask_caption_ids: bool = True
    augment: bool = True
    # The padding before the random crop: 10 pixels at a height of 384, and in proportion at other
    # sizes; False: 10 pixels at any size, as released. At 128 x 64, three seeds of IRRA: R@1 equal,
    # mAP 34.8 against 33.1.
    scale_crop_padding: bool = True
    # SDM and CMPM within so many consecutive rows alone, averaged, as on devices that do not see
    # each other's rows (the released code on several GPUs); 0: the whole batch.
    loss_group: int = 0
    mlm_rows: float = 0.1  # share of the positions whose words are scored in one pass
    mlm_group: int = 8  # captions that share a pass; a device should hold whole groups

    def __post_init__(self):
        unknown = set(self.losses) - set(LOSSES)
        if unknown:
            raise ValueError(f"losses is {self.losses}, expected some of {LOSSES}")
        if self.learn_temperature and "itc" not in self.losses:
            raise ValueError(
                f"learn_temperature is True, but losses is {self.losses}: only 'itc' learns it; "
                "add 'itc' or set learn_temperature=False"
            )
        if self.mlm_group < 1:
            raise ValueError(f"mlm_group is {self.mlm_group}, expected at least 1")
        if self.loss_group < 0:
            raise ValueError(f"loss_group is {self.loss_group}, expected 0 (all rows) or more")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, expected a positive number")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}, expected one of {tuple(ACTIVATIONS)}"
            )
        heads = {"vision_width": self.vision_head_dim, "text_width": self.text_head_dim}
        for name, head_dim in (heads | {"embed_dim": 64}).items():
            if head_dim < 1 or getattr(self, name) % head_dim:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a multiple of {head_dim}, the size "
                    "of a head"
                )

    @property
    def row_group(self) -> int:
        return self.loss_group or 1

    def with_row_group(self, rows: int) -> "Config":
        return dataclasses.replace(self, loss_group=rows if self.loss_group else 0)

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 3

    def complete(self) -> "Config":
        """The same model with every optional part, against which optimiser patterns are checked."""
        return dataclasses.replace(self, losses=LOSSES, learn_temperature=True)

    def for_inference(self) -> "Config":
        """The same model without training heads: what evaluation and search need."""
        return dataclasses.replace(self, losses=(), learn_temperature=False)

    @classmethod
    def vit_b16(cls, **changes) -> "Config":
        """The published model: 194,535,419 parameters with 11,003 identities."""
        return cls(**changes)

    @classmethod
    def tiny(cls, **changes) -> "Config":
        """A model for tests: two layers, 64 wide."""
        sizes: dict[str, Any] = dict(
            image_size=(32, 16),
            patch=8,
            stride=8,
            vision_width=64,
            vision_depth=2,
            text_width=64,
            text_depth=2,
            text_length=16,
            vocab_size=128,
            embed_dim=64,
            fusion_depth=1,
            num_persons=8,
        )
        return cls(**(sizes | changes))


class MlmHead(nnx.Module):
    """fc(LN(QuickGELU(dense(x)))): fused tokens [...,C] -> token logits [...,V], untied."""

    def __init__(self, width: int, depth: int, vocab_size: int, policy, *, rngs: nnx.Rngs):
        bias = uniform_fan_in(width)
        fc_std, proj_std = (2 * width) ** -0.5, width**-0.5 * (2 * depth) ** -0.5
        self.dense = dense(width, width, (EMBED, None), normal(fc_std), bias, policy, rngs=rngs)
        self.ln = layer_norm(width, policy, rngs=rngs)
        self.fc = dense(
            width, vocab_size, (EMBED, VOCAB), normal(proj_std), bias, policy, rngs=rngs
        )

        self.dtype = policy.compute

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.ln(quick_gelu(self.dense(x))).astype(self.dtype))


class Irra(nnx.Module):
    """Image tower, text tower and the training heads that `config.losses` asks for."""

    def __init__(self, config: Config, policy: ComputePolicy, *, rngs: nnx.Rngs):
        c = config
        self.image_encoder = VisionTransformer(
            image_size=c.image_size,
            patch=c.patch,
            stride=c.stride,
            width=c.vision_width,
            depth=c.vision_depth,
            embed_dim=c.embed_dim,
            head_dim=c.vision_head_dim,
            hidden=c.vision_hidden or None,
            activation=c.activation,
            policy=policy,
            rngs=rngs,
        )
        self.text_encoder = ClipText(
            vocab_size=c.vocab_size,
            length=c.text_length,
            width=c.text_width,
            depth=c.text_depth,
            embed_dim=c.embed_dim,
            head_dim=c.text_head_dim,
            hidden=c.text_hidden or None,
            activation=c.activation,
            policy=policy,
            rngs=rngs,
        )
        if "id" in c.losses:
            self.classifier = dense(
                c.embed_dim, c.num_persons, (EMBED, VOCAB), normal(0.001), zeros, policy, rngs=rngs
            )
        if "mlm" in c.losses:
            self.fusion = FusionEncoder(c.embed_dim, c.fusion_depth, policy, rngs=rngs)
            self.mlm_head = MlmHead(c.embed_dim, c.fusion_depth, c.vocab_size, policy, rngs=rngs)
        if c.learn_temperature:
            self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), policy.param))

    def encode_image(self, image: jax.Array) -> jax.Array:
        """image uint8 [B,H,W,3] -> features float32 [B,C], not normalised."""
        return self.image_encoder.feature(normalise(image, MEAN, STD)).astype(jnp.float32)

    def encode_text(self, text_ids: jax.Array, language: int = 0) -> jax.Array:
        """text_ids int [B,L] -> features float32 [B,C], not normalised; one language alone."""
        del language
        return self.text_encoder.feature(text_ids).astype(jnp.float32)


def prepare_inputs(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> dict:
    """Batch of the data contract -> what `objective` reads: augmented images, masked captions.

    Runs on the device inside the training step; a pure function of (batch, key).
    """
    image_key, mask_key = jax.random.split(key)
    image = batch["image"]
    if config.augment:
        scale_pad = config.scale_crop_padding
        augmentation = dataclasses.replace(AUGMENTATION, scale_pad=scale_pad)
        image = augment_images(image, image_key, augmentation)
    else:  # the released transform without augmentation still flips
        image = normalise(random_flip(image, image_key), MEAN, STD)
    inputs = {"image": image, "caption_ids": batch["text_ids"]}
    if "mlm" in config.losses:
        masked, labels = mask_tokens(batch["text_ids"], mask_key, config.mask_id)
        inputs["mlm_ids"] = masked
        inputs["mlm_labels"] = jnp.where(batch["valid"][:, None], labels, 0)
        if config.mask_caption_ids:
            inputs["caption_ids"] = masked
    return inputs | {k: batch[k] for k in ("person_id", "image_id", "valid")}


def objective(model: Irra, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    """Loss terms (names ending in `_loss`, weighted, to be summed) and accuracies.

    inputs: image float [B,H,W,3] normalised; caption_ids, mlm_ids, mlm_labels int [B,L];
    person_id, image_id int [B]; valid bool [B].
    """
    pooled, tokens = forward(model, inputs, config)
    terms = batch_terms(model, pooled, inputs, config)
    return terms | row_terms(model, tokens, inputs, config, totals(inputs, config))


def forward(model: Irra, inputs: dict[str, jax.Array], config: Config) -> tuple[dict, dict]:
    """(features that meet the whole batch, image and text [B,C]; tokens that stay in their row).

    No tokens without the masked-word loss, which alone reads them.
    """
    if "mlm" not in config.losses:
        image = model.image_encoder.feature(inputs["image"])
        text = model.text_encoder.feature(inputs["caption_ids"])
        return {"image": image.astype(jnp.float32), "text": text.astype(jnp.float32)}, {}
    image_tokens = model.image_encoder(inputs["image"])
    text_tokens = model.text_encoder(inputs["caption_ids"])
    pooled = {
        "image": image_tokens[:, 0].astype(jnp.float32),
        "text": end_token(text_tokens, inputs["caption_ids"]).astype(jnp.float32),
    }
    if not config.mask_caption_ids:
        text_tokens = model.text_encoder(inputs["mlm_ids"])  # else the captions are masked already
    return pooled, {"image": image_tokens, "text": text_tokens}


def batch_terms(model: Irra, pooled: dict, inputs: dict, config: Config) -> dict[str, jax.Array]:
    """The terms of `objective` that compare rows of the batch, and the identity classifier."""
    c = config
    image, text = pooled["image"], pooled["text"]
    person_id, valid = inputs["person_id"], inputs["valid"]
    scale = 1 / c.temperature
    terms = {}
    if "sdm" in c.losses:
        image_id = {} if c.image_id_factor is None else {"image_id": inputs["image_id"]}
        sdm = functools.partial(sdm_loss, logit_scale=scale, factor=c.image_id_factor or 0.0)
        terms["sdm_loss"] = c.sdm_weight * in_groups(
            sdm, c.loss_group, image, text, person_id, valid=valid, **image_id
        )
    if "itc" in c.losses:
        if c.learn_temperature:
            # CLIP's rule: the learned scale never exceeds 100.
            scale = jnp.exp(jnp.minimum(model.logit_scale[...], math.log(100.0)))
            terms["logit_scale"] = scale
        terms["itc_loss"] = c.itc_weight * itc_loss(image, text, logit_scale=scale, valid=valid)
    if "cmpm" in c.losses:
        terms["cmpm_loss"] = in_groups(cmpm_loss, c.loss_group, image, text, person_id, valid=valid)
    if "id" in c.losses:
        loss, image_accuracy, text_accuracy = identity_loss(
            model.classifier(image), model.classifier(text), person_id, valid
        )
        terms["id_loss"] = c.id_weight * loss
        terms |= {"image_accuracy": image_accuracy, "text_accuracy": text_accuracy}
    return terms


def totals(inputs: dict[str, jax.Array], config: Config) -> jax.Array:
    """The number of masked words, by which `row_terms` divides."""
    return jnp.sum(inputs["mlm_labels"] != 0) if "mlm" in config.losses else jnp.zeros((), int)


def row_terms(
    model: Irra, tokens: dict, inputs: dict, config: Config, totals: jax.Array
) -> dict[str, jax.Array]:
    """The terms of `objective` that add up over parts of the batch; `totals` are the whole's."""
    if "mlm" not in config.losses:
        return {}
    return mlm_terms(model, tokens["text"], tokens["image"], inputs["mlm_labels"], config, totals)


def mlm_terms(
    model: Irra,
    text_tokens: jax.Array,
    image_tokens: jax.Array,
    labels: jax.Array,
    config: Config,
    total: jax.Array,
) -> dict[str, jax.Array]:
    """Masked-word loss and accuracy, sums over `total`.

    The last fusion block and the head are computed at labelled positions alone.
    """
    head = model.mlm_head
    assert head.fc.bias is not None, "the released head has one"

    def hidden(variables: tuple[Unfinished, nnx.Linear, nnx.LayerNorm], position: jax.Array):
        fused, dense, ln = variables
        return ln(quick_gelu(dense(fused.at(position)))).astype(head.dtype)

    fused = model.fusion.unfinished(text_tokens, image_tokens)
    group = config.mlm_group if len(labels) % config.mlm_group == 0 else len(labels)
    labels = labels.reshape(len(labels) // group, -1)  # [groups, positions]
    loss, accuracy = masked_word_loss(
        hidden,
        (fused, head.dense, head.ln),
        head.fc.kernel[...],
        head.fc.bias[...],
        labels,
        total,
        at_a_time=math.ceil(config.mlm_rows * labels.shape[1]),
    )
    return {"mlm_loss": config.mlm_weight * loss, "mlm_accuracy": accuracy}


def adopt(
    loaded: Params, fresh: Params, source: Config, target: Config, as_official: bool
) -> Adopted:
    """How parameters of CLIP or of another run enter this model, see `Method.adopt`.

    Image positions are resized between the grids of patches, as the released code resizes CLIP's;
    of the text positions the first are kept. A classifier of another number of identities stays
    behind.

    Raises:
      ValueError: `text_length` is longer than the source's.
    """
    del as_official  # the released code resizes, too
    loaded = without_other_shapes(loaded, fresh, "classifier")
    grids = [patch_grid(c.image_size, c.patch, c.stride) for c in (source, target)]
    resize, notes = {}, []
    if grids[0] != grids[1]:
        resize["image_encoder/pos_embed"] = lambda x: resize_pos_embed(x, grids[1], grids[0])
        notes.append("resized {}x{} -> {}x{}".format(*grids[0], *grids[1]))
    if source.text_length != target.text_length:
        resize["text_encoder/pos_embed"] = lambda x: first_positions(x, target.text_length)
        notes.append(f"positions {source.text_length} -> {target.text_length}")
    return with_resized(loaded, "; ".join(notes), resize)


METHOD = Method(
    config=Config,
    model=Irra,
    prepare_inputs=prepare_inputs,
    objective=objective,
    parts=Parts(forward, batch_terms, row_terms, totals),
    tokenizer="clip_bpe",
    adopt=adopt,
    backbone="clip",
)
