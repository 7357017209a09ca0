"""IVT: one network for both modalities (Shu et al., ECCVW 2022, arXiv 2208.08608).

Images and texts pass through the same transformer, each with its own feed-forward layers.
Fine-tuning shows every pair several times (word, phrase and sentence, each with its own augmented
view) with randomly removed tokens, and aligns all of them with CMPM. Pre-training on image-caption
pairs uses contrast, matching and masked words, through a fusion encoder that search never sees.
"""

import dataclasses
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
from tipr_jax.augment.token_removal import keep_tokens
from tipr_jax.batch import ColumnSpec, MaskedWords, TextLevels
from tipr_jax.losses.classification import cross_entropy
from tipr_jax.losses.contrastive import cmpm_loss, in_groups, l2_normalise
from tipr_jax.losses.matching import hard_negatives, matching_loss, soft_itc_loss
from tipr_jax.models.method import (
    Adopted,
    Method,
    ModelConfig,
    Params,
    Parts,
    filled,
    from_positions,
    from_shapes,
    with_resized,
)
from tipr_jax.nn.bert import BertMlmHead, BertStack, token_0
from tipr_jax.nn.dropout import drop_path_scales, fold_in
from tipr_jax.nn.init import normal, zeros
from tipr_jax.nn.interleave import interleave, interleaved_keys
from tipr_jax.nn.pos_embed import patch_grid, resize_pos_embed
from tipr_jax.nn.shared_trunk import SharedTrunk
from tipr_jax.nn.transformer import dense
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED

LOSSES = ("cmpm", "itc", "itm", "mlm")
PRETRAINING = ("itc", "itm", "mlm")
LEVELS = {"word": "word_ids", "phrase": "phrase_ids", "sentence": "text_ids"}  # keys of the batch
MASKS = ("both", "image", "text", "none")

# datasets/make_dataloader.py in the release.
MEAN = STD = (0.5, 0.5, 0.5)
AUGMENTATION = ImageAugmentation(
    mean=MEAN,
    std=STD,
    pad=10,
    erasing=RandomErasing(
        probability=0.5, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value="random"
    ),
    flip_first=False,
)

# What a row's random key is folded with, so that no two draws share numbers.
IMAGE, TEXT, MASKED_TEXT, FUSE_MASKED, NEGATIVES, FUSE_PAIRS = range(6)


@dataclasses.dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes, losses and switches of IVT; the defaults are the released fine-tuning on CUHK-PEDES.

    `losses` may be mixed, but "itm" and "mlm" read one text per pair and clean tokens: they need
    levels ("sentence",) and mask "none", as `pretraining` sets.
    """

    image_size: tuple[int, int] = from_positions((384, 128))
    patch: int = from_shapes(16)
    stride: int = from_positions(12)  # overlapping patches; RSTPReid and pre-training use 16
    width: int = from_shapes(768)
    depth: int = from_shapes(12)
    heads: int = from_shapes(12)
    image_ffn: int = from_shapes(0)  # hidden widths of the two MLPs; 0: four times the width
    text_ffn: int = from_shapes(0)
    text_length: int = from_positions(100)
    vocab_size: int = from_shapes(30522)
    max_positions: int = from_shapes(512)  # rows of the text position table
    drop_path: float = 0.1
    dropout: float = 0.1  # of the text embedding and of the fusion encoder

    losses: tuple[str, ...] = ("cmpm",)  # empty: the trunk alone
    levels: tuple[str, ...] = tuple(LEVELS)  # texts, and augmented views, per pair
    mask: str = "both"  # both | image | text | none: from which stream tokens are removed
    mask_bound: float = 0.2  # at most this share of the tokens
    # True (released): a pair that the sampler shows twice in an epoch has other texts each time.
    redraw_repeats: bool = False
    mask_per_sample: bool = False  # True (ours): every row draws for itself
    augment: bool = True
    # The padding before the random crop: 10 pixels at a height of 384, and in proportion at other
    # sizes; False: 10 pixels at any size, as released.
    scale_crop_padding: bool = True
    # CMPM within so many consecutive pairs alone, averaged, as on devices that do not see each
    # other's (released on CUHK-PEDES and ICFG-PEDES: 4 GPUs with 28 each); 0: the whole batch.
    loss_group: int = 0

    fusion_depth: int = from_shapes(6)
    fusion_ffn: int = from_shapes(3072)
    temperature: float = 0.5  # initial value of the learned one
    # False (released): the contrast reads un-normalised features. True: cosines, for which 0.07
    # is the usual temperature.
    normalise_itc: bool = False

    def __post_init__(self):
        for name, known in (("losses", LOSSES), ("levels", tuple(LEVELS))):
            if unknown := set(getattr(self, name)) - set(known):
                raise ValueError(f"{name} has {sorted(unknown)}, expected some of {known}")
        if not self.levels:
            raise ValueError(f"levels is empty, expected some of {tuple(LEVELS)}")
        if self.mask not in MASKS:
            raise ValueError(f"mask is {self.mask!r}, expected one of {MASKS}")
        for name in ("mask_bound", "drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1)")
        if self.loss_group < 0:
            raise ValueError(f"loss_group is {self.loss_group}, expected 0 (all pairs) or more")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, expected a positive number")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.text_length > self.max_positions:
            raise ValueError(
                f"text_length {self.text_length} exceeds the {self.max_positions} positions of the "
                "text embedding; shorten it or raise max_positions"
            )
        whole = self.levels == ("sentence",) and self.mask == "none"
        if {"itm", "mlm"} & set(self.losses) and not whole:
            raise ValueError(
                f"losses {self.losses} need levels ('sentence',) and mask 'none', "
                f"given {self.levels} and {self.mask!r}"
            )

    @property
    def row_group(self) -> int:
        return self.loss_group or 1

    def with_row_group(self, rows: int) -> "Config":
        return dataclasses.replace(self, loss_group=rows if self.loss_group else 0)

    def complete(self) -> "Config":
        """The same model with every optional head, against which optimiser patterns are checked."""
        return dataclasses.replace(self, losses=LOSSES, levels=("sentence",), mask="none")

    def for_inference(self) -> "Config":
        """The same model without training heads: what evaluation and search need."""
        return dataclasses.replace(self, losses=())

    @classmethod
    def vit_b16(cls, **changes) -> "Config":
        """The published model: 166,631,424 parameters."""
        return cls(**changes)

    @classmethod
    def pretraining(cls, **changes) -> "Config":
        """The released pre-training on image-caption pairs."""
        settings: dict[str, Any] = dict(stride=16, text_length=50, losses=PRETRAINING)
        settings |= dict(levels=("sentence",), mask="none")
        return cls(**(settings | changes))

    @classmethod
    def tiny(cls, **changes) -> "Config":
        """A model for tests: two layers, 64 wide."""
        sizes: dict[str, Any] = dict(
            image_size=(32, 16),
            patch=8,
            stride=8,
            width=64,
            depth=2,
            heads=2,
            text_length=16,
            vocab_size=128,
            max_positions=32,
            fusion_depth=2,
            fusion_ffn=96,
        )
        return cls(**(sizes | changes))


class Ivt(nnx.Module):
    """The shared trunk, and the pre-training heads that `config.losses` asks for."""

    def __init__(self, config: Config, policy: ComputePolicy, *, rngs: nnx.Rngs):
        c = config
        self.encoder = SharedTrunk(
            image_size=c.image_size,
            patch=c.patch,
            stride=c.stride,
            width=c.width,
            depth=c.depth,
            heads=c.heads,
            image_ffn=c.image_ffn or 4 * c.width,
            text_ffn=c.text_ffn or 4 * c.width,
            vocab_size=c.vocab_size,
            max_positions=c.max_positions,
            policy=policy,
            rngs=rngs,
        )
        if {"itc", "itm"} & set(c.losses):
            self.temperature = nnx.Param(jnp.asarray(c.temperature, policy.param))
        if {"itm", "mlm"} & set(c.losses):
            self.fusion = BertStack(
                width=c.width,
                depth=c.fusion_depth,
                heads=c.heads,
                hidden=c.fusion_ffn,
                policy=policy,
                rngs=rngs,
            )
        if "itm" in c.losses:
            in_float32 = policy.in_float32()
            self.itm_head = dense(
                c.width, 2, (EMBED, None), normal(0.02), zeros, in_float32, rngs=rngs
            )
        if "mlm" in c.losses:
            self.mlm_head = BertMlmHead(c.width, c.vocab_size, policy, rngs=rngs)

    def encode_image(self, image: jax.Array) -> jax.Array:
        """image uint8 [B,H,W,3] -> features float32 [B,D], not normalised."""
        return self.encoder.image_tokens(normalise(image, MEAN, STD))[:, 0].astype(jnp.float32)

    def encode_text(self, text_ids: jax.Array, language: int = 0) -> jax.Array:
        """text_ids int [B,L], padded with 0 -> features float32 [B,D], not normalised."""
        del language  # a model of one language
        tokens = self.encoder.text_tokens(text_ids, key_mask=text_mask(text_ids))
        return tokens[:, 0].astype(jnp.float32)


def columns(config: Config) -> tuple[ColumnSpec, ...]:
    """The texts of the other levels; in pre-training the masked words."""
    levels = tuple(level for level in config.levels if level != "sentence")
    specs: list[ColumnSpec] = [TextLevels(levels, config.redraw_repeats)] if levels else []
    if "mlm" in config.losses:
        specs.append(MaskedWords())  # the law of the released pre-training
    return tuple(specs)


def text_mask(text_ids: jax.Array) -> jax.Array:
    """bool [...,L]: real tokens. Token 0 counts in any case: a padding ROW has no other key."""
    return (text_ids != 0) | (jnp.arange(text_ids.shape[-1]) == 0)


def prepare_inputs(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> dict:
    """Batch of the data contract -> what `objective` reads. A pure function of (batch, key).

    The batch has image, person_id, image_id, valid and the text of every configured level; for
    "mlm" also mlm_ids [B,L] (words replaced by masks), mlm_positions [B,M] and mlm_labels [B,M]
    (-100: no label).

    Returns arrays whose leading axis is B, S being the number of levels: image float [B,S,H,W,3],
    text_ids [B,S,L], image_mask bool [B,S,1+P] (only if tokens are removed), text_mask bool
    [B,S,L], row_key uint32 [B,S,2] (of every later draw).
    """
    c, count = config, len(config.levels)
    rows = len(batch["person_id"])
    view_key, image_key, text_key, row_key = jax.random.split(key, 4)
    text_ids = jnp.stack([batch[LEVELS[level]] for level in c.levels], axis=1)
    inputs = {"text_ids": text_ids, "text_mask": text_mask(text_ids)}

    views = (_view(batch["image"], k, c) for k in jax.random.split(view_key, count))
    inputs["image"] = jnp.stack(list(views), axis=1)
    if c.mask in ("both", "image"):
        grid_rows, grid_cols = ((n - c.patch) // c.stride + 1 for n in c.image_size)
        tokens = 1 + grid_rows * grid_cols
        keep = keep_tokens(
            image_key,
            jnp.full(rows * count, tokens),
            tokens,
            c.mask_bound,
            per_sample=c.mask_per_sample,
        )
        inputs["image_mask"] = keep.reshape(rows, count, tokens)
    if c.mask in ("both", "text"):
        length = jnp.sum(inputs["text_mask"], axis=-1).reshape(-1)
        size = text_ids.shape[-1]
        keep = keep_tokens(text_key, length, size, c.mask_bound, per_sample=c.mask_per_sample)
        inputs["text_mask"] &= keep.reshape(text_ids.shape)
    keys = jax.random.split(row_key, (rows, count))
    inputs["row_key"] = jax.random.key_data(keys)
    if "mlm" in c.losses:
        inputs |= {k: batch[k] for k in ("mlm_ids", "mlm_positions")}
        inputs["mlm_labels"] = jnp.where(batch["valid"][:, None], batch["mlm_labels"], -100)
    return inputs | {k: batch[k] for k in ("person_id", "image_id", "valid")}


def _view(image: jax.Array, key: jax.Array, config: Config) -> jax.Array:
    """One view of every image, normalised."""
    if config.augment:
        augmentation = dataclasses.replace(AUGMENTATION, scale_pad=config.scale_crop_padding)
        return augment_images(image, key, augmentation)
    return normalise(random_flip(image, key), MEAN, STD)


def objective(model: Ivt, inputs: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    """Loss terms (names ending in `_loss`, to be summed; weights 1) and accuracies.

    inputs: as `prepare_inputs` returns them.
    """
    pooled, tokens = forward(model, inputs, config)
    terms = batch_terms(model, pooled, inputs, config)
    if "itm" in config.losses:
        negative_image, negative_text = draw_negatives(model, tokens, inputs, config)
        terms |= itm_terms(model, tokens, negative_image, negative_text, inputs, config)
    if "mlm" in config.losses:
        terms |= mlm_terms(model, tokens["image"], inputs, config, totals(inputs, config))
    return terms


def forward(
    model: Ivt, inputs: dict[str, jax.Array], config: Config
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """(features {"image", "text"} float32 [B,S,D], their tokens for the losses that need them)."""
    rows, count = inputs["text_ids"].shape[:2]
    each = {k: _merge(inputs[k]) for k in ("image", "text_ids", "text_mask")}
    image_mask = _merge(inputs["image_mask"]) if "image_mask" in inputs else None
    keys = row_keys(inputs)
    image_tokens = model.encoder.image_tokens(
        each["image"],
        key_mask=image_mask,
        scale=drop_path_scales(fold_in(keys, IMAGE), config.drop_path, config.depth),
    )
    text_tokens = encode_tokens(
        model, each["text_ids"], each["text_mask"], fold_in(keys, TEXT), config
    )
    pooled = {
        "image": image_tokens[:, 0].astype(jnp.float32).reshape(rows, count, -1),
        "text": text_tokens[:, 0].astype(jnp.float32).reshape(rows, count, -1),
    }
    if {"itm", "mlm"} & set(config.losses):
        return pooled, {"image": image_tokens, "text": text_tokens}
    return pooled, {}


def encode_tokens(
    model: Ivt, text_ids: jax.Array, mask: jax.Array, keys: jax.Array, config: Config
) -> jax.Array:
    """Training pass of texts [B,L] -> tokens [B,L,D]; keys [B] for dropout and DropPath."""
    return model.encoder.text_tokens(
        text_ids,
        key_mask=mask,
        scale=drop_path_scales(fold_in(keys, 0), config.drop_path, config.depth),
        keys=fold_in(keys, 1),
        dropout=config.dropout,
    )


def batch_terms(
    model: Ivt, pooled: dict[str, jax.Array], inputs: dict[str, jax.Array], config: Config
) -> dict[str, jax.Array]:
    """The losses between all rows of the batch: CMPM and ITC over the S * B images and texts."""
    image, text = _merge(pooled["image"]), _merge(pooled["text"])
    person_id = jnp.repeat(inputs["person_id"], len(config.levels))
    valid = jnp.repeat(inputs["valid"], len(config.levels))
    terms = {}
    if "cmpm" in config.losses:
        group = config.loss_group * len(config.levels)
        terms["cmpm_loss"] = in_groups(cmpm_loss, group, image, text, person_id, valid=valid)
    if "itc" in config.losses:
        if config.normalise_itc:
            image, text = l2_normalise(image), l2_normalise(text)
        scale = 1 / model.temperature[...]
        terms["itc_loss"] = soft_itc_loss(image, text, person_id, scale=scale, valid=valid)
        terms["temperature"] = model.temperature[...]
    return terms


def totals(inputs: dict[str, jax.Array], config: Config) -> jax.Array:
    """The number of masked words, by which `row_terms` divides."""
    return jnp.sum(inputs["mlm_labels"] >= 0) if "mlm" in config.losses else jnp.zeros((), int)


def row_terms(
    model: Ivt, tokens: dict, inputs: dict, config: Config, totals: jax.Array
) -> dict[str, jax.Array]:
    """The terms of `objective` that add up over parts of the batch; `totals` are the whole's.

    Raises:
      ValueError: for "itm", whose negatives come with their tokens from the whole batch.
    """
    if "itm" in config.losses:
        raise ValueError(
            "the 'itm' loss needs the tokens of the whole batch; use --config.micro_batches=1"
        )
    if "mlm" not in config.losses:
        return {}
    return mlm_terms(model, tokens["image"], inputs, config, totals)


def draw_negatives(model: Ivt, tokens: dict, inputs: dict, config: Config) -> tuple:
    """(negative image of each text, negative text of each image), int [B]; no gradient."""
    image, text = (tokens[k][:, 0].astype(jnp.float32) for k in ("image", "text"))
    if config.normalise_itc:
        image, text = l2_normalise(image), l2_normalise(text)
    # Pairs of one person may be negatives, as released: in pre-training ids are unique.
    pair = jnp.arange(len(image))
    keys = fold_in(row_keys(inputs), NEGATIVES)
    scale = 1 / model.temperature[...]
    return hard_negatives(image, text, pair, keys, scale=scale, valid=inputs["valid"])


def itm_terms(
    model: Ivt,
    tokens: dict[str, jax.Array],
    negative_image: jax.Array,
    negative_text: jax.Array,
    inputs: dict[str, jax.Array],
    config: Config,
) -> dict[str, jax.Array]:
    """Do image and text match? Pairs, and both kinds of negatives, given by index [B]."""
    image, text, mask = tokens["image"], tokens["text"], _merge(inputs["text_mask"])
    images = interleave([image, image[negative_image], image])
    texts = interleave([text, text, text[negative_text]])
    masks = interleave([mask, mask, mask[negative_text]])
    keys = interleaved_keys(fold_in(row_keys(inputs), FUSE_PAIRS), 3)
    at = token_0(texts)
    fused = model.fusion(texts, images, masks, keys=keys, rate=config.dropout, at=at)
    logits = model.itm_head(fused[:, 0]).reshape(-1, 3, 2)
    loss, accuracy = matching_loss(logits, inputs["valid"])
    return {"itm_loss": loss, "itm_accuracy": accuracy}


def mlm_terms(
    model: Ivt, image_tokens: jax.Array, inputs: dict, config: Config, total: jax.Array
) -> dict[str, jax.Array]:
    """Masked words, recovered from the masked text and the image; means over `total` words."""
    logits, labels = mlm_logits(model, image_tokens, inputs, config), inputs["mlm_labels"]
    loss, accuracy = cross_entropy(logits, jnp.maximum(labels, 0), labels >= 0, total)
    return {"mlm_loss": loss, "mlm_accuracy": accuracy}


def mlm_logits(
    model: Ivt, image_tokens: jax.Array, inputs: dict[str, jax.Array], config: Config
) -> jax.Array:
    """[B,M,V] at the masked positions. The mask belongs to the clean text."""
    keys, mask = row_keys(inputs), _merge(inputs["text_mask"])
    text = encode_tokens(model, inputs["mlm_ids"], mask, fold_in(keys, MASKED_TEXT), config)
    fused = model.fusion(
        text,
        image_tokens,
        mask,
        keys=fold_in(keys, FUSE_MASKED),
        rate=config.dropout,
        at=inputs["mlm_positions"],
    )
    return model.mlm_head(fused)


def row_keys(inputs: dict[str, jax.Array]) -> jax.Array:
    """One random key per image and text, [S * B]."""
    return jax.random.wrap_key_data(_merge(inputs["row_key"]))


def _merge(x: jax.Array) -> jax.Array:
    """[B,S,...] -> [B*S,...], pairs staying together (and on their device)."""
    return x.reshape(-1, *x.shape[2:])


def adopt(
    loaded: Params, fresh: Params, source: Config, target: Config, as_official: bool
) -> Adopted:
    """How a pre-trained trunk, or parts of one (BERT, ViT), enter this model, see `Method.adopt`.

    The two tables of image positions are resized where the grids of patches differ. With
    `as_official` the tables of a pre-training are left out then, because the released code silently
    drops tables that do not fit: fine-tuning at stride 12 loses what pre-training at stride 16 has
    learned, and keeps ImageNet's resized `pos_embed` (from a source before it in `init_from`) and a
    random `type_embed`.
    """
    grids = [patch_grid(c.image_size, c.patch, c.stride) for c in (source, target)]
    tables = ("encoder/pos_embed", "encoder/type_embed")
    loaded, notes = filled(loaded, fresh, *loaded)
    if grids[0] == grids[1]:
        return Adopted(loaded, notes)
    change = "{}x{} -> {}x{}".format(*grids[0], *grids[1])
    if as_official and "encoder/type_embed" not in notes:  # not an ImageNet model, which has none
        kept = {path: flatten(fresh)[path] for path in tables}
        note = f"as before: as_official does not resize {change}"
        loaded, resized = with_resized(loaded, note, {k: lambda _, k=k: kept[k] for k in tables})
    else:
        resize = lambda table: resize_pos_embed(table, grids[1], grids[0])  # noqa: E731
        resize_all = {path: resize for path in tables if path not in notes}
        loaded, resized = with_resized(loaded, f"resized {change}", resize_all)
    return Adopted(loaded, {**notes, **resized})


METHOD = Method(
    config=Config,
    model=Ivt,
    prepare_inputs=prepare_inputs,
    objective=objective,
    parts=Parts(forward, batch_terms, row_terms, totals),
    columns=columns,
    tokenizer="wordpiece",
    adopt=adopt,
)
