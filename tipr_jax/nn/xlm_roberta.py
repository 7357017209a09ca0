"""XLM-RoBERTa as a text tower.

Source: Conneau et al., ACL 2020; models/xroberta.py in the release of X2-VLM. Bi-IRRA starts from a
model of that kind.
"""

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.bert import BertEmbedding, BertStack
from tipr_jax.nn.init import normal
from tipr_jax.precision import ComputePolicy

PAD_ID = 1
EPSILON = 1e-5
POSITIONS = ("bert0", "roberta")


def roberta_positions(mask: jax.Array) -> jax.Array:
    """Positions of tokens: text counts from PAD_ID + 1, padding has PAD_ID.

    mask: bool [B,L], False for padding. Returns int32 [B,L].
    """
    chex.assert_rank(mask, 2)
    return PAD_ID + mask * jnp.cumsum(mask, axis=1, dtype=jnp.int32)


class XlmRoberta(BertStack):
    """Word embedding and post-norm layers.

    positions: "roberta" as in the pre-training, or "bert0" (0, 1, ..., padding included), which the
    released Bi-IRRA uses, because it builds the layers from the class of BERT.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_positions: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        policy: ComputePolicy,
        positions: str = "bert0",
        rngs: nnx.Rngs,
    ):
        super().__init__(
            width=width,
            depth=depth,
            heads=heads,
            hidden=hidden,
            policy=policy,
            cross=False,
            epsilon=EPSILON,
            rngs=rngs,
        )
        self.embed = BertEmbedding(
            vocab_size,
            max_positions,
            width,
            policy,
            token_types=1,
            epsilon=EPSILON,
            init=normal(0.02),
            pad_id=PAD_ID,
            rngs=rngs,
        )
        self.positions = positions

    def __call__(
        self,
        text_ids: jax.Array,
        mask: jax.Array,
        *,
        keys: jax.Array | None = None,
        rate: float = 0.0,
    ) -> jax.Array:
        """text_ids int [B,L], mask bool [B,L] (False for padding) -> tokens [B,L,D].

        keys: random keys [B] of the dropout, None for evaluation. rate: of the dropout.
        """
        chex.assert_rank(text_ids, 2)
        chex.assert_equal_shape((text_ids, mask))
        at = roberta_positions(mask) if self.positions == "roberta" else None
        x = self.embed(text_ids, keys, rate, positions=at)
        return super().__call__(x, None, mask, keys=keys, rate=rate)
