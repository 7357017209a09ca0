"""The text tower: the layers of XLM-R base (spec bi_irra §1.2)."""

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.bert import BertEmbedding, BertStack
from tipr_jax.nn.init import normal
from tipr_jax.precision import DtypePolicy

PAD_ID = 1
EPSILON = 1e-5
POSITIONS = ("bert0", "roberta")


def roberta_positions(mask: jax.Array) -> jax.Array:
    """mask bool [B,L] -> int [B,L]: real tokens count from PAD_ID + 1, padding stays at PAD_ID."""
    return PAD_ID + mask * jnp.cumsum(mask, axis=1, dtype=jnp.int32)


class XlmRoberta(BertStack):
    """Word embedding and post-norm layers.

    positions: "roberta" as in the pre-training, or "bert0" (0, 1, ..., padding included), which the
    released Bi-IRRA uses by building the stack from another class.
    """

    def __init__(
        self,
        vocab_size: int,
        max_positions: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        policy: DtypePolicy,
        *,
        positions: str = "bert0",
        rngs: nnx.Rngs,
    ):
        super().__init__(
            width, depth, heads, hidden, policy, cross=False, epsilon=EPSILON, rngs=rngs
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
        """text_ids int [B,L], mask bool [B,L] (False: padding) -> tokens [B,L,D].

        keys [B] and rate: of the dropout; None evaluates.
        """
        at = roberta_positions(mask) if self.positions == "roberta" else None
        x = self.embed(text_ids, keys, rate, positions=at)
        return super().__call__(x, None, mask, keys=keys, rate=rate)
