"""Bi-IRRA: multilingual person retrieval with two-way reasoning (TPAMI 2025; spec bi_irra).

A BEiT v2 image tower, an XLM-R text tower for all languages, and a fusion encoder that runs both
ways: text reading the image (matching, masked words, re-ranking) and image reading the text
(cross-lingual distillation of masked images). The first language is the source, the others are
targets.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tipr_jax.augment.image import RandomErasing, normalise
from tipr_jax.augment.rand_augment import RandAugment
from tipr_jax.batch import Column
from tipr_jax.nn.beit import Beit
from tipr_jax.nn.bert import BertMlmHead, BertStack
from tipr_jax.nn.init import normal, uniform_fan_in
from tipr_jax.nn.transformer import dense, gelu, layer_norm
from tipr_jax.nn.xlm_roberta import EPSILON, PAD_ID, POSITIONS, XlmRoberta
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED, MLP, VOCAB

LOSSES = ("itc", "itm", "mlm", "mim", "sdm", "id")
MASKED_STREAMS = ("none", "image", "text")
MIM_MASKS = ("block", "random", "grid")
MIM_SCOPES = ("batch", "sample")
MIM_TARGETS = ("feature", "cls", "attention")
MIM_DISTANCES = ("cos", "smooth_l1")
SIDES = ("source", "target")

# The six operations of the release (two are drawn per image), with the statistics of ImageNet.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTATION = RandAugment(
    mean=MEAN,
    std=STD,
    num_ops=2,
    jitter=0.1,
    max_angle=15.0,
    crop_area=(0.9, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    grey_probability=0.1,
    erasing=RandomErasing(
        probability=0.5, area=(0.1, 0.2), ratio=(0.3, 3.3), value=(0.0, 0.0, 0.0)
    ),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, losses and switches; the defaults are the published run on CUHK-PEDES(M).

    The paper's ablations are changes of these fields: Table VI of `losses`, VII of `mim_target`
    and `mim_pairs`, VIII of `mim_mask`, IX of `itm_mask_*`, X of `itc_mask_*`.
    """

    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    width: int = 768  # of all three encoders
    vision_depth: int = 12
    vision_heads: int = 12
    drop_path: float = 0.1
    layer_scale: float = 0.1  # initial value
    text_depth: int = 12
    text_heads: int = 12  # of text tower and fusion encoder
    text_ffn: int = 3072
    text_length: int = 77
    vocab_size: int = 250002  # the last id is the mask
    max_positions: int = 514
    positions: str = "bert0"  # released: 0, 1, ...; "roberta": as in the pre-training
    dropout: float = 0.1  # of text tower and fusion encoder
    fusion_depth: int = 6
    fusion_epsilon: float = 1e-5  # of the LayerNorms; these six layers were pre-trained with 1e-12
    embed_dim: int = 256
    num_persons: int = 11003  # classes of the identity loss

    languages: tuple[str, ...] = ("en", "zh")  # source, then targets; one target as published
    separate_target_proj: bool = False  # True (ours): every target language has its projection

    losses: tuple[str, ...] = ("itc", "itm", "mlm", "mim")  # empty: the two towers alone
    itc_weight: float = 1.0
    itm_weight: float = 4.0
    mlm_weight: float = 1.0
    mim_weight: float = 4.0
    sdm_weight: float = 1.0
    id_weight: float = 1.0  # the paper does not tell

    temperature: float = 0.07  # initial value of the learned divisor
    temperature_range: tuple[float, float] = (0.001, 0.5)  # the released forward does not clamp
    sdm_temperature: float = 0.07
    # The released gather leaves 1/devices of the gradient of ITC to the encoders: 0.25 with the
    # published 4 GPUs. 1.0 is the plain formula.
    itc_feature_grad_scale: float = 0.25
    itc_mask_source: str = "none"  # none | image | text: which stream of the pair is masked
    itc_mask_target: str = "none"
    itm_mask_source: str = "none"
    itm_mask_target: str = "image"
    itm_group_size: int = 32  # negatives come from the same group of rows (released: a GPU's)

    mim_mask: str = "block"  # block | random | grid; drawn by the input pipeline, as the next two
    mim_ratio: float = 0.5
    mim_mask_scope: str = "batch"  # batch (released: one mask per GPU, here per group) | sample
    mim_target: str = "feature"  # feature | cls (token 0) | attention (of the last fusion layer)
    mim_loss: str = "cos"  # cos | smooth_l1
    # (language of the teacher, of the student); the distances of several pairs are summed.
    mim_pairs: tuple[tuple[str, str], ...] = (("source", "target"),)

    mlm_prob: float = 0.4  # drawn by the input pipeline, as the next three
    mlm_max_masks: int = 12
    mlm_span_prob: float = 0.2
    mlm_span_max: int = 3
    tie_decoder: bool = True  # masked words are scored with the word embedding
    augment: bool = True

    def __post_init__(self):
        if unknown := set(self.losses) - set(LOSSES):
            raise ValueError(f"losses has {sorted(unknown)}, expected some of {LOSSES}")
        choices = {
            "positions": POSITIONS,
            "mim_mask": MIM_MASKS,
            "mim_mask_scope": MIM_SCOPES,
            "mim_target": MIM_TARGETS,
            "mim_loss": MIM_DISTANCES,
        } | {f"{loss}_mask_{side}": MASKED_STREAMS for loss in ("itc", "itm") for side in SIDES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {known}")
        wrong = [pair for pair in self.mim_pairs if len(pair) != 2 or set(pair) - set(SIDES)]
        if wrong or not self.mim_pairs:
            raise ValueError(
                f"mim_pairs is {self.mim_pairs}, expected pairs (teacher, student) of {SIDES}"
            )
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):
            raise ValueError(
                f"languages is {self.languages}, expected the source and at least one target"
            )
        for name in ("vision_heads", "text_heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"width {self.width} is not divisible by {name} {getattr(self, name)}"
                )
        low, high = self.temperature_range
        if not 0 < low <= self.temperature <= high:
            raise ValueError(
                f"temperature is {self.temperature}, expected a positive number within "
                f"temperature_range {self.temperature_range}"
            )
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1)")
        for name in ("mim_ratio", "mlm_prob", "mlm_span_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1]")
        for name, least in {"itm_group_size": 1, "mlm_max_masks": 1, "mlm_span_max": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        # RoBERTa's positions begin behind the padding id.
        needed = self.text_length + (PAD_ID + 1 if self.positions == "roberta" else 0)
        if needed > self.max_positions:
            raise ValueError(
                f"text_length {self.text_length} needs {needed} positions, max_positions is "
                f"{self.max_positions}; shorten it"
            )

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 1

    def masked(self, stream: str) -> bool:
        """Whether any configured loss reads the masked "image" or "text"."""
        pairs = [k for k in ("itc", "itm") if k in self.losses]
        fed = {getattr(self, f"{k}_mask_{side}") for k in pairs for side in SIDES}
        return stream in fed or {"image": "mim", "text": "mlm"}[stream] in self.losses

    def complete(self) -> "Config":
        """The same model with every optional head, against which optimiser patterns are checked."""
        return dataclasses.replace(self, losses=LOSSES, mim_target="feature", tie_decoder=False)

    def towers(self) -> "Config":
        """The same model without what only training needs; re-ranking keeps fusion and ITM head."""
        losses = ("itm",) if "itm" in self.losses else ()
        return dataclasses.replace(
            self, losses=losses, itm_mask_source="none", itm_mask_target="none"
        )

    @classmethod
    def base(cls, **changes) -> "Config":
        """The published model: 424,911,189 parameters."""
        return cls(**changes)

    @classmethod
    def tiny(cls, **changes) -> "Config":
        """A model for tests: two layers, 32 wide."""
        sizes = dict(
            image_size=(32, 16),
            patch=8,
            width=32,
            vision_depth=2,
            vision_heads=2,
            text_depth=2,
            text_heads=2,
            text_ffn=64,
            text_length=12,
            vocab_size=128,
            max_positions=32,
            fusion_depth=2,
            embed_dim=16,
            num_persons=8,
            itm_group_size=4,
            mlm_max_masks=4,
        )
        return cls(**(sizes | changes))


class TwoLayerHead(nnx.Module):
    """fc(GELU(LN(dense(x)))), twice as wide inside: for matching and for the student's features."""

    def __init__(self, width: int, n_out: int, policy: ComputePolicy, *, rngs: nnx.Rngs):
        def linear(n_in: int, n_out: int, axes: tuple) -> nnx.Linear:
            init = uniform_fan_in(n_in)
            return dense(n_in, n_out, axes, init, init, policy, rngs=rngs)

        self.dense = linear(width, 2 * width, (EMBED, MLP))
        self.ln = layer_norm(2 * width, policy, epsilon=EPSILON, rngs=rngs)
        self.fc = linear(2 * width, n_out, (MLP, None))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(gelu(self.ln(self.dense(x))))


class TargetProjection(nnx.Module):
    """One projection for all target languages, or one each: kernel [N,D,C], bias [N,C]."""

    def __init__(
        self, count: int, width: int, n_out: int, policy: ComputePolicy, *, rngs: nnx.Rngs
    ):
        kernel = normal(0.02)(rngs.params(), (count, width, n_out), policy.param)
        self.kernel = nnx.Param(kernel, axes=(None, EMBED, None))
        self.bias = nnx.Param(jnp.zeros((count, n_out), policy.param), axes=(None, None))
        self.dtype = policy.compute

    def __call__(self, x: jax.Array, language: jax.Array | int) -> jax.Array:
        """x [B,D]; language int [B] or one int, index into the config's languages -> [B,C]."""
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        if kernel.shape[0] == 1:
            return x @ kernel[0] + bias[0]
        every = jnp.einsum("bd,ndc->bnc", x, kernel) + bias
        index = jnp.broadcast_to(jnp.asarray(language) - 1, x.shape[:1])
        return jnp.take_along_axis(every, index[:, None, None], axis=1)[:, 0]


class BiIrra(nnx.Module):
    """Image tower, text tower, fusion encoder, and the heads that `config.losses` asks for."""

    def __init__(self, config: Config, policy: ComputePolicy, *, rngs: nnx.Rngs):
        c = config
        self.image_encoder = Beit(
            image_size=c.image_size,
            patch=c.patch,
            width=c.width,
            depth=c.vision_depth,
            heads=c.vision_heads,
            policy=policy,
            layer_scale=c.layer_scale,
            drop_path_rate=c.drop_path,
            mask_token=c.masked("image"),
            rngs=rngs,
        )
        self.text_encoder = XlmRoberta(
            vocab_size=c.vocab_size,
            max_positions=c.max_positions,
            width=c.width,
            depth=c.text_depth,
            heads=c.text_heads,
            hidden=c.text_ffn,
            policy=policy,
            positions=c.positions,
            rngs=rngs,
        )

        def projection() -> nnx.Linear:
            init = uniform_fan_in(c.width)
            return dense(c.width, c.embed_dim, (EMBED, None), init, init, policy, rngs=rngs)

        self.vision_proj, self.text_proj = projection(), projection()
        targets = len(c.languages) - 1 if c.separate_target_proj else 1
        self.target_proj = TargetProjection(targets, c.width, c.embed_dim, policy, rngs=rngs)
        self.target_proj.kernel[...] = jnp.tile(self.text_proj.kernel[...], (targets, 1, 1))
        self.target_proj.bias[...] = jnp.tile(self.text_proj.bias[...], (targets, 1))
        self._add_heads(c, policy, rngs)

    def _add_heads(self, c: Config, policy: ComputePolicy, rngs: nnx.Rngs) -> None:
        losses = set(c.losses)
        if losses & {"itc", "itm"}:
            self.temperature = nnx.Param(jnp.asarray(c.temperature, policy.param))
        if losses & {"itm", "mlm", "mim"}:
            self.fusion = BertStack(
                width=c.width,
                depth=c.fusion_depth,
                heads=c.text_heads,
                hidden=c.text_ffn,
                policy=policy,
                epsilon=c.fusion_epsilon,
                rngs=rngs,
            )
        if "itm" in losses:
            self.itm_head = TwoLayerHead(c.width, 2, policy, rngs=rngs)
        if "mim" in losses and c.mim_target != "attention":
            self.mim_head = TwoLayerHead(c.width, c.width, policy, rngs=rngs)
        if "mlm" in losses:
            self.mlm_head = BertMlmHead(
                c.width, c.vocab_size, policy, epsilon=EPSILON, tied=c.tie_decoder, rngs=rngs
            )
        if "id" in losses:
            # The bias starts at 0.1, as released.
            bias = nnx.initializers.constant(0.1)
            self.classifier = dense(
                c.embed_dim, c.num_persons, (EMBED, VOCAB), normal(0.01), bias, policy, rngs=rngs
            )

    def image_tokens(self, image: jax.Array) -> jax.Array:
        """image uint8 [B,H,W,3] -> tokens [B,1+P,D]; token 0 is the patch mean."""
        return self.image_encoder(normalise(image, MEAN, STD))

    def text_tokens(self, text_ids: jax.Array) -> jax.Array:
        """text_ids int [B,L] of any language, padded with 1 -> tokens [B,L,D]."""
        return self.text_encoder(text_ids, text_mask(text_ids))

    def image_feature(self, tokens: jax.Array) -> jax.Array:
        """tokens [B,1+P,D] -> un-normalised float32 features [B,C]."""
        return self.vision_proj(tokens[:, 0]).astype(jnp.float32)

    def text_feature(self, tokens: jax.Array, language: jax.Array | int = 0) -> jax.Array:
        """tokens [B,L,D] -> un-normalised float32 features [B,C].

        language: index into the config's languages, 0 for the source; or int [B] of targets only.
        """
        if isinstance(language, int) and language == 0:
            return self.text_proj(tokens[:, 0]).astype(jnp.float32)
        return self.target_proj(tokens[:, 0], language).astype(jnp.float32)

    def encode_image(self, image: jax.Array) -> jax.Array:
        """image uint8 [B,H,W,3] -> un-normalised float32 features [B,C]."""
        return self.image_feature(self.image_tokens(image))

    def encode_text(self, text_ids: jax.Array, language: int = 0) -> jax.Array:
        """text_ids int [B,L], language its index -> un-normalised float32 features [B,C]."""
        return self.text_feature(self.text_tokens(text_ids), language)

    def match(self, image_tokens: jax.Array, text_tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Does each text fit its image? Float32 logits [B,2]; column 1 is "match".

        image_tokens [B,1+P,D], text_tokens [B,L,D], mask bool [B,L] from `text_mask`.
        """
        fused = self.fusion(text_tokens, image_tokens, mask)
        return self.itm_head(fused[:, 0]).astype(jnp.float32)

    def learned_temperature(self, config: Config) -> jax.Array:
        """The divisor of ITC's logits, clamped; the gradient passes through the clamp."""
        value = self.temperature[...]
        return value + jax.lax.stop_gradient(jnp.clip(value, *config.temperature_range) - value)


def columns(config: Config) -> dict[str, Column]:
    """What a batch holds beside the common arrays, whatever the losses; P patches, M masks."""
    height, width = config.image_size
    text = (config.text_length,), np.int32
    words = (config.mlm_max_masks,), np.int32
    names = {"mlm_ids": text, "mlm_positions": words, "mlm_labels": words}
    return {
        "target_ids": text,
        "target_language": ((), np.int32),
        "patch_mask": ((height // config.patch * (width // config.patch),), np.bool_),
        **names,
        **{f"target_{name}": column for name, column in names.items()},
    }


def text_mask(text_ids: jax.Array) -> jax.Array:
    """bool [...,L]: real tokens. Token 0 counts in any case: a padding ROW has no other key."""
    return (text_ids != PAD_ID) | (jnp.arange(text_ids.shape[-1]) == 0)
