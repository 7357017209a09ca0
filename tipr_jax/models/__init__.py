"""One paper per file; `MODELS` is the table the trainer and the command line choose from."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from tipr_jax.batch import Column
from tipr_jax.models import bi_irra, bi_irra_objective, irra, ivt


class Parts(NamedTuple):
    """An objective in two parts, so that a batch can pass through the towers piece by piece.

    forward(model, inputs, config) -> (pooled, tokens) of any piece of the batch, batch-first;
    batch_terms(model, pooled, inputs, config) -> terms that need the pooled features of the whole
    batch; row_terms(model, tokens, inputs, config, totals) -> terms that add up over the pieces,
    given totals(inputs, config) of the whole batch.
    """

    forward: Callable[..., tuple[Any, Any]]
    batch_terms: Callable[..., dict[str, Any]]
    row_terms: Callable[..., dict[str, Any]]
    totals: Callable[..., Any]


class Method(NamedTuple):
    """What the trainer knows about a paper.

    config: frozen dataclass of plain data; model: `Model(config, policy, rngs=...)` with
    `encode_image` and `encode_text`; prepare_inputs(batch, key, config) runs on the device;
    objective(model, inputs, config) -> dict of scalars whose `*_loss` entries are summed; parts:
    the same in two parts, or None, with which `config.micro_batches` must be 1; columns(config):
    what the batch holds beside the common arrays (`tipr_jax.batch`); tokenizer: a key of
    `tipr_jax.text.TOKENIZERS`.
    """

    config: type
    model: type[nnx.Module]
    prepare_inputs: Callable[..., dict]
    objective: Callable[..., dict[str, Any]]
    parts: Parts | None = None
    columns: Callable[[Any], dict[str, Column]] = lambda config: {}
    tokenizer: str = "clip_bpe"


MODELS = {
    "irra": Method(
        irra.Config,
        irra.Irra,
        irra.prepare_inputs,
        irra.objective,
        Parts(irra.forward, irra.batch_terms, irra.row_terms, irra.totals),
    ),
    "ivt": Method(
        ivt.Config,
        ivt.Ivt,
        ivt.prepare_inputs,
        ivt.objective,
        Parts(ivt.forward, ivt.batch_terms, ivt.row_terms, ivt.totals),
        ivt.columns,
        "wordpiece",
    ),
    "bi_irra": Method(
        bi_irra.Config,
        bi_irra.BiIrra,
        bi_irra_objective.prepare_inputs,
        bi_irra_objective.objective,
        columns=bi_irra.columns,
        tokenizer="xlm_roberta",
    ),
}
