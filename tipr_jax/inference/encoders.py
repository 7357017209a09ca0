"""The jitted encoders of a model; evaluation, embedding and search use the same ones."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from tipr_jax import sharding
from tipr_jax.batch import Batch
from tipr_jax.experiment import Experiment, compute_policy
from tipr_jax.inference.pieces import Cut, cuts
from tipr_jax.models.method import MatchingModel, Method, ModelConfig, Params
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.train_state import define_model, select_params

TextTokens = tuple[jax.Array, jax.Array]  # tokens [B,L,D], mask bool [B,L]


class Encoders:
    """A model's encoders on a mesh. Each is compiled when it is first called.

    Every function takes the variables of the model first, as `select` or `put` gives them: on a CPU
    in pieces. Inputs are cut over the devices by rows, results are whole on each of them.

    Args:
      method, config: the model; training heads are left out.
      policy: how it computes.
      mesh, rules: where it computes, see `sharding`.
    """

    def __init__(
        self, method: Method, config: ModelConfig, policy: ComputePolicy, mesh: Mesh, rules: dict
    ):
        self.config, self.mesh, self.rules = config.for_inference(), mesh, rules
        # An accelerator computes large batches, next to which the copies are small, and compiles a
        # loop over the layers sooner.
        in_pieces = mesh.devices.flat[0].platform == "cpu"
        policy = dataclasses.replace(policy, unrolled=in_pieces)
        graphdef, abstract, _ = define_model(method, self.config, policy)
        self._functions = Functions(graphdef, policy.compute)
        self._abstract: Params = nnx.to_pure_dict(abstract)
        self._whole_shardings = sharding.param_shardings(abstract, mesh, rules)
        self._cuts = cuts(abstract) if in_pieces else jax.tree.map(lambda _: Cut(), self._abstract)
        self._shardings = jax.tree.map(Cut.layout, self._cuts, self._whole_shardings)

    @classmethod
    def of_experiment(cls, exp: Experiment) -> "Encoders":
        """The encoders of a run, on its mesh."""
        how = compute_policy(exp.config, exp.mesh, exp.rules)
        return cls(exp.method, exp.model_config, how, exp.mesh, exp.rules)

    @classmethod
    def on_this_machine(cls, method: Method, config: ModelConfig) -> "Encoders":
        """The encoders on all devices, rows cut over them."""
        return cls(method, config, policy(), sharding.make_mesh(), sharding.RULES["data_parallel"])

    @property
    def rows(self) -> NamedSharding:
        """Layout of an array whose rows are cut over the devices."""
        return sharding.batch_sharding(self.mesh, self.rules)

    @property
    def whole(self) -> NamedSharding:
        """Layout of an array that every device holds."""
        return sharding.replicated(self.mesh)

    def put_rows(self, batch: Batch) -> dict[str, jax.Array]:
        """Global arrays from this process's rows, see `sharding.put_batch`."""
        return sharding.put_batch(batch, self.rows)

    def select(self, params: Params) -> Params:
        """What these encoders read of a model's variables, from arrays laid out as in training."""
        return self._cut(select_params(params, self._abstract))

    def put(self, params: Params) -> Params:
        """The same from whole numpy arrays that every process has."""
        read = select_params(params, self._abstract)
        return self._cut(sharding.put_params(read, self._whole_shardings))

    def whole_params(self, variables: Params) -> Params:
        """The arrays of the model, from what `select` gives."""
        return jax.tree.map(Cut.whole, self._cuts, variables)

    @functools.cached_property
    def encode_image(self) -> Callable[[Params, jax.Array], jax.Array]:
        """(variables, image uint8 [B,H,W,3]) -> features float32 [B,C], not normalised."""
        return self._jit(self._functions.encode_image)

    @functools.cached_property
    def encode_text(self) -> Callable[[Params, jax.Array, int], jax.Array]:
        """(variables, text_ids int [B,L], language) -> features float32 [B,C], not normalised."""
        return self._jit(self._functions.encode_text, static_argnums=2)

    @functools.cached_property
    def image_tokens(self) -> Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]:
        """(variables, image) -> (features [B,C], tokens [B,1+P,D] in the compute dtype)."""
        return self._jit(self._functions.image_tokens)

    @functools.cached_property
    def text_tokens(self) -> Callable[[Params, jax.Array], TextTokens]:
        """(variables, text_ids) -> (tokens [B,L,D] in the compute dtype, mask bool [B,L])."""
        return self._jit(self._functions.text_tokens)

    @functools.cached_property
    def match(self) -> Callable[..., jax.Array]:
        """(variables, image tokens [G,1+P,D], text tokens [Q,L,D] with mask, rows) -> logits [N,2].

        rows: {"image": int [N], "text": int [N]}, which image and text make each pair. Column 1 of
        the logits is "match".
        """

        def match(params: Params, image: jax.Array, text: TextTokens, row: dict) -> jax.Array:
            tokens, mask = text
            pair = image[row["image"]], tokens[row["text"]], mask[row["text"]]
            return self._functions.match(self.whole_params(params), *pair)

        layouts = (self._shardings, self.whole, self.whole, self.rows)
        return jax.jit(match, in_shardings=layouts, out_shardings=self.whole)

    @functools.cached_property
    def join(self) -> Callable[..., TextTokens]:
        """Several `text_tokens` as one."""

        def join(*parts: TextTokens) -> TextTokens:
            return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

        return jax.jit(join, out_shardings=self.whole)

    @functools.cached_property
    def _cut(self) -> Callable[[Params], Params]:
        def cut(params: Params) -> Params:
            return jax.tree.map(Cut.pieces, self._cuts, params)

        return jax.jit(cut, in_shardings=(self._whole_shardings,), out_shardings=self._shardings)

    def _jit(self, encode: Callable, **options: Any) -> Callable:
        def run(params: Params, inputs: jax.Array, *language: int) -> Any:
            return encode(self.whole_params(params), inputs, *language)

        layouts = (self._shardings, self.rows)
        return jax.jit(run, in_shardings=layouts, out_shardings=self.whole, **options)


class Functions(NamedTuple):
    """What a model computes, as plain functions of its variables; the last three if it can match.

    Letters as in `models.method.MatchingModel`; tokens are in `dtype`.
    """

    graphdef: nnx.GraphDef
    dtype: Any

    def encode_image(self, params: Params, image: jax.Array) -> jax.Array:
        """uint8 [B,H,W,3] -> features float32 [B,C], not normalised."""
        return self._model(params).encode_image(image)

    def encode_text(self, params: Params, text_ids: jax.Array, language: int) -> jax.Array:
        """int [B,L] -> features float32 [B,C], not normalised."""
        return self._model(params).encode_text(text_ids, language)

    def image_tokens(self, params: Params, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """uint8 [B,H,W,3] -> (features [B,C], tokens [B,1+P,D])."""
        model: MatchingModel = self._model(params)
        tokens = model.image_tokens(image)
        # The matching head computes in this dtype, so tokens lose nothing by being kept in it.
        return model.image_feature(tokens), tokens.astype(self.dtype)

    def text_tokens(self, params: Params, text_ids: jax.Array) -> TextTokens:
        """int [B,L] -> (tokens [B,L,D], mask bool [B,L])."""
        model: MatchingModel = self._model(params)
        return model.text_tokens(text_ids).astype(self.dtype), model.text_mask(text_ids)

    def match(
        self, params: Params, image: jax.Array, text: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Tokens [N,1+P,D] and [N,L,D] with mask of N pairs -> logits [N,2]."""
        return self._model(params).match(image, text, mask)

    def _model(self, params: Params) -> Any:
        return nnx.merge(self.graphdef, params)


def language_index(languages: Sequence[str], language: str) -> int:
    """The place of `language` among a model's languages; 0 for "" and for a model of one language.

    Raises:
      ValueError: a language that the model does not know.
    """
    if not language or not languages:
        return 0
    if language not in languages:
        raise ValueError(
            f"the captions are in {language!r}, the model knows {', '.join(languages)}; "
            "set --config.data.target"
        )
    return languages.index(language)
