"""The jitted encoders of a model; evaluation, embedding and search use the same ones."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from tipr_jax import sharding
from tipr_jax.batch import Batch
from tipr_jax.experiment import Experiment, compute_policy
from tipr_jax.models.method import MatchingModel, Method, ModelConfig, Params
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.train_state import define_model, select_params

TextTokens = tuple[jax.Array, jax.Array]  # tokens [B,L,D], mask bool [B,L]


class Encoders:
    """A model's encoders on a mesh. Each is compiled when it is first called.

    Every function takes the variables of the model first, a nested dict laid out as `shardings`.
    Inputs are cut over the devices by rows, results are whole on each of them.

    Args:
      method, config: the model; training heads are left out.
      policy: how it computes.
      mesh, rules: where it computes, see `sharding`.
    """

    def __init__(
        self, method: Method, config: ModelConfig, policy: ComputePolicy, mesh: Mesh, rules: dict
    ):
        self.config, self.mesh, self.rules = config.for_inference(), mesh, rules
        self._graphdef, abstract, _ = define_model(method, self.config, policy)
        self.abstract_params: Params = nnx.to_pure_dict(abstract)
        self.shardings = sharding.param_shardings(abstract, mesh, rules)
        self.tokens_dtype = policy.compute

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
        """The part of a model's variables that these encoders read."""
        return select_params(params, self.abstract_params)

    @functools.cached_property
    def encode_image(self) -> Callable[[Params, jax.Array], jax.Array]:
        """(variables, image uint8 [B,H,W,3]) -> features float32 [B,C], not normalised."""
        return self._jit(lambda model, image: model.encode_image(image))

    @functools.cached_property
    def encode_text(self) -> Callable[[Params, jax.Array, int], jax.Array]:
        """(variables, text_ids int [B,L], language) -> features float32 [B,C], not normalised."""

        def encode(params: Params, text_ids: jax.Array, language: int) -> jax.Array:
            return nnx.merge(self._graphdef, params).encode_text(text_ids, language)

        return jax.jit(
            encode,
            static_argnums=2,
            in_shardings=(self.shardings, self.rows),
            out_shardings=self.whole,
        )

    @functools.cached_property
    def image_tokens(self) -> Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]:
        """(variables, image) -> (features [B,C], tokens [B,1+P,D] in the compute dtype)."""

        # The matching head computes in this dtype, so tokens lose nothing by being kept in it.
        def encode(model: MatchingModel, image: jax.Array) -> tuple[jax.Array, jax.Array]:
            tokens = model.image_tokens(image)
            return model.image_feature(tokens), tokens.astype(self.tokens_dtype)

        return self._jit(encode)

    @functools.cached_property
    def text_tokens(self) -> Callable[[Params, jax.Array], TextTokens]:
        """(variables, text_ids) -> (tokens [B,L,D] in the compute dtype, mask bool [B,L])."""

        def encode(model: MatchingModel, text_ids: jax.Array) -> TextTokens:
            tokens = model.text_tokens(text_ids).astype(self.tokens_dtype)
            return tokens, model.text_mask(text_ids)

        return self._jit(encode)

    @functools.cached_property
    def match(self) -> Callable[..., jax.Array]:
        """(variables, image tokens [G,1+P,D], text tokens [Q,L,D] with mask, rows) -> logits [N,2].

        rows: {"image": int [N], "text": int [N]}, which image and text make each pair. Column 1 of
        the logits is "match".
        """

        def match(params: Params, image: jax.Array, text: TextTokens, row: dict) -> jax.Array:
            tokens, mask = text
            model = nnx.merge(self._graphdef, params)
            return model.match(image[row["image"]], tokens[row["text"]], mask[row["text"]])

        layouts = (self.shardings, self.whole, self.whole, self.rows)
        return jax.jit(match, in_shardings=layouts, out_shardings=self.whole)

    @functools.cached_property
    def join(self) -> Callable[..., TextTokens]:
        """Several `text_tokens` as one."""

        def join(*parts: TextTokens) -> TextTokens:
            return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

        return jax.jit(join, out_shardings=self.whole)

    def _jit(self, encode: Callable) -> Callable:
        return jax.jit(
            lambda params, x: encode(nnx.merge(self._graphdef, params), x),
            in_shardings=(self.shardings, self.rows),
            out_shardings=self.whole,
        )


def padded(x: np.ndarray, rows: int) -> np.ndarray:
    """x with zeros up to `rows`."""
    if len(x) == rows:
        return x
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


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
