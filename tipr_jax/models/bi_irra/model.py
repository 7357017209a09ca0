"""The network of Bi-IRRA: two towers, a fusion encoder, heads; and its image transform."""

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.augment.image import RandomErasing, normalise
from tipr_jax.augment.rand_augment import RandAugment
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.nn.beit import Beit
from tipr_jax.nn.bert import BertMlmHead, BertStack, token_0
from tipr_jax.nn.init import normal, uniform_fan_in
from tipr_jax.nn.transformer import dense, gelu, layer_norm
from tipr_jax.nn.xlm_roberta import EPSILON, PAD_ID, XlmRoberta
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED, MLP, VOCAB

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
        assert self.text_proj.bias is not None
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
            self.itm_head = TwoLayerHead(c.width, 2, policy.in_float32(), rngs=rngs)
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

    def text_mask(self, text_ids: jax.Array) -> jax.Array:
        """text_ids int [B,L] -> bool [B,L]: the tokens that the fusion encoder reads."""
        return text_mask(text_ids)

    def image_feature(self, tokens: jax.Array) -> jax.Array:
        """tokens [B,1+P,D] -> features float32 [B,C], not normalised."""
        return self.vision_proj(tokens[:, 0]).astype(jnp.float32)

    def text_feature(self, tokens: jax.Array, language: jax.Array | int = 0) -> jax.Array:
        """tokens [B,L,D] -> features float32 [B,C], not normalised.

        language: index into the config's languages, 0 for the source; or int [B] of targets only.
        """
        if isinstance(language, int) and language == 0:
            return self.text_proj(tokens[:, 0]).astype(jnp.float32)
        return self.target_proj(tokens[:, 0], language).astype(jnp.float32)

    def encode_image(self, image: jax.Array) -> jax.Array:
        """image uint8 [B,H,W,3] -> features float32 [B,C], not normalised."""
        return self.image_feature(self.image_tokens(image))

    def encode_text(self, text_ids: jax.Array, language: int = 0) -> jax.Array:
        """text_ids int [B,L], language its index -> features float32 [B,C], not normalised."""
        return self.text_feature(self.text_tokens(text_ids), language)

    def match(self, image_tokens: jax.Array, text_tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Does each text fit its image? Float32 logits [B,2]; column 1 is "match".

        image_tokens [B,1+P,D], text_tokens [B,L,D], mask bool [B,L] from `text_mask`.
        """
        fused = self.fusion(text_tokens, image_tokens, mask, at=token_0(mask))
        return self.itm_head(fused[:, 0]).astype(jnp.float32)

    def learned_temperature(self, config: Config) -> jax.Array:
        """The divisor of ITC's logits, clamped; the gradient passes through the clamp."""
        value = self.temperature[...]
        return value + jax.lax.stop_gradient(jnp.clip(value, *config.temperature_range) - value)


def text_mask(text_ids: jax.Array) -> jax.Array:
    """bool [...,L]: real tokens. Token 0 counts in any case: a padding ROW has no other key."""
    return (text_ids != PAD_ID) | (jnp.arange(text_ids.shape[-1]) == 0)
