"""The contract between a paper and the engine.

A paper is a module that defines `METHOD`, a `Method`: `tipr_jax/models/<name>.py`, or any module
that `config.method` names with its dots ("my_package.my_paper"). Everything that trains, evaluates,
converts, exports and searches knows a paper through this file alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self

import jax
import numpy as np
from flax import nnx

from tipr_jax.batch import Column, ColumnSpec
from tipr_jax.param_tree import Params, flatten, unflatten

Inputs = dict[str, jax.Array]  # what `Method.prepare_inputs` returns
Terms = dict[str, jax.Array]  # scalars of a step; those whose name ends in "_loss" are summed

# Who determines the value of a config field, where parameters come from elsewhere.
SHAPES, POSITIONS, USE = "shapes", "positions", "use"

TOWER_MODULES = {"image_encoder", "text_encoder"}  # what passes between methods of one `backbone`


def from_shapes(default: Any, parameter: str = "", axis: int = 0) -> Any:
    """A config field that the shapes of stored parameters determine: width, depth, vocab_size.

    parameter: path of the one ("classifier/bias") whose size along `axis` is the value, if the
    stored config may not tell it.
    """
    return _field(default, SHAPES, parameter=parameter, axis=axis)


def from_positions(default: Any) -> Any:
    """A config field that the tables of positions determine: image_size, stride, text_length.

    Training may choose another value if the method's `adopt` resizes the tables.
    """
    return _field(default, POSITIONS)


def from_use(default: Any) -> Any:
    """A config field that no shape shows, but with which the parameters were trained to be used."""
    return _field(default, USE)


def _field(default: Any, determined_by: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"determined_by": determined_by, **more})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes, losses and switches of a method: plain data, the one place where defaults stand.

    A method's Config inherits from this and redeclares the fields below with defaults of its own.
    Of these the engine sets image_size, text_length, languages and num_persons from `config.data`.
    """

    image_size: tuple[int, int] = from_positions((384, 128))
    text_length: int = from_positions(77)
    vocab_size: int = from_shapes(0)
    losses: tuple[str, ...] = ()  # empty: what evaluation needs and nothing else
    # The languages of a run, the source first. Empty by default: a method of one language.
    languages: tuple[str, ...] = ()
    # Classes of an identity loss. 0 by default: a method without one.
    num_persons: int = 0

    @property
    def can_match(self) -> bool:
        """Whether the model has `match`, so that re-ranking is possible."""
        return False

    @property
    def row_group(self) -> int:
        """So many consecutive rows of a batch belong together; batch sizes must be multiples."""
        return 1

    def with_row_group(self, rows: int) -> Self:
        """The same model for batches whose rows belong together in groups of `rows`."""
        return self

    def complete(self) -> Self:
        """The same model with every optional part, against which optimiser patterns are checked."""
        return self

    def for_inference(self) -> Self:
        """The same model with what evaluation, re-ranking and search need, and nothing else."""
        return dataclasses.replace(self, losses=())

    @classmethod
    def bound_languages(cls, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """The languages that have parameters of their own in a model with these config fields.

        () if any language can be put in the place of another.
        """
        del fields
        return ()

    @classmethod
    def fields_from(cls, *determined_by: str) -> set[str]:
        """Names of the fields that one of SHAPES, POSITIONS, USE determines."""
        return {
            field.name
            for field in dataclasses.fields(cls)
            if field.metadata.get("determined_by") in determined_by
        }

    @classmethod
    def from_stored(cls, fields: Mapping[str, Any], params: Params) -> Self:
        """The config of a stored model, from the fields and the parameters that it was saved with.

        Raises:
          ValueError: a field that this version does not have.
        """
        values = {**fields, **cls.read_shapes(params)}
        if not cls.languages:
            values.pop("languages", None)  # of the data; a method of one language has none
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"the stored model has the fields {unknown}, which {cls.__module__} does not know; "
                "it was written by another version"
            )
        return cls(**values)

    @classmethod
    def read_shapes(cls, params: Params) -> dict[str, int]:
        """The values of the fields that name the parameter whose size they are."""
        found = {}
        for field in dataclasses.fields(cls):
            if path := field.metadata.get("parameter"):
                leaf: Any = params
                for key in path.split("/"):
                    leaf = leaf.get(key, {})
                if np.ndim(leaf):
                    found[field.name] = int(np.shape(leaf)[field.metadata["axis"]])
        return found


class Parts(NamedTuple):
    """An objective in two parts, so that a batch can pass through the towers piece by piece.

    forward(model, inputs, config) -> (pooled, tokens) of any piece of the batch, batch-first;
    batch_terms(model, pooled, inputs, config) -> terms that need the pooled features of the whole
    batch; row_terms(model, tokens, inputs, config, totals) -> terms that add up over the pieces,
    given totals(inputs, config) of the whole batch.
    """

    forward: Callable[..., tuple[Any, Any]]
    batch_terms: Callable[..., Terms]
    row_terms: Callable[..., Terms]
    totals: Callable[..., Any]


class EpochHook(NamedTuple):
    """What a method works out about every training pair before an epoch.

    Before the first step of each epoch the engine passes all pairs through the model once, in an
    order and with augmentations of their own, and calls
      score(model, inputs, config) -> {name: float [B]}, on the device, without gradient;
      summarise(scores, epoch, seed, config) -> {name: array [N]}, on the host, given every score of
        all N pairs of the train split in order (0 where a sampler left a pair out).
    It must be a pure function. The arrays are part of the training state, so that a run that
    continues in the middle of an epoch has them; in the batch each row finds its own under the same
    name. arrays(config) -> {name: Column} says which they are; they begin as the column's padding.
    The method's columns must include `batch.PairIndex`.
    """

    score: Callable[..., dict[str, jax.Array]]
    summarise: Callable[..., dict[str, np.ndarray]]
    arrays: Callable[..., dict[str, Column]]


class Adopted(NamedTuple):
    """Parameters that a new model takes over from another one.

    params: top-level modules, each complete and with the shapes of the new model. notes: what
    happened to a parameter on the way, by its path ("resized 24x8 -> 31x10", "fresh: ..."); one
    without a note was taken as it is.
    """

    params: Params
    notes: Mapping[str, str]


def take_all(loaded: Params, fresh: Params, source: Any, target: Any, as_official: bool) -> Adopted:
    """`Method.adopt` of a method whose parameters fit any other model of its kind as they are."""
    del fresh, source, target, as_official
    return Adopted(loaded, {})


def with_resized(
    loaded: Params, note: str, resize: Mapping[str, Callable[[np.ndarray], Any]]
) -> Adopted:
    """`loaded` with resized tables: resize maps the path of a table ("encoder/pos_embed") to a
    function of it. Tables that `loaded` lacks are left out.
    """
    leaves = flatten(loaded)
    notes = {path: note for path in resize if path in leaves}
    leaves |= {path: np.asarray(resize[path](np.asarray(leaves[path]))) for path in notes}
    return Adopted(unflatten(leaves), notes)


def filled(loaded: Params, fresh: Params, *modules: str) -> Adopted:
    """`loaded` whose `modules`, of which it may hold a part, are completed from `fresh`."""
    wanted = flatten({name: fresh[name] for name in modules if name in loaded and name in fresh})
    leaves = flatten(loaded)
    missing = {path: value for path, value in wanted.items() if path not in leaves}
    notes = {path: "fresh: the source does not have it" for path in missing}
    return Adopted(unflatten(leaves | missing), notes)


def without_other_shapes(loaded: Params, fresh: Params, *modules: str) -> Params:
    """`loaded` without every one of the `modules` that has other shapes in it than in `fresh`.

    For classifiers: with another number of identities they belong to another data set.
    """
    shapes = lambda tree: jax.tree.map(np.shape, tree)  # noqa: E731
    other = {m for m in modules if m in fresh and shapes(loaded.get(m)) != shapes(fresh[m])}
    return {name: module for name, module in loaded.items() if name not in other}


def no_columns(config: Any) -> tuple[ColumnSpec, ...]:
    """`Method.columns` of a method that reads the common columns alone."""
    del config
    return ()


class MatchingModel(Protocol):
    """What a model with a matching head has besides `encode_image` and `encode_text`.

    P patches, L tokens of a text, D the width of the tokens, C the length of a feature.
    """

    def image_tokens(self, image: jax.Array) -> jax.Array:
        """uint8 [B,H,W,3] -> [B,1+P,D]."""
        ...

    def image_feature(self, tokens: jax.Array) -> jax.Array:
        """[B,1+P,D] -> the features [B,C] that `encode_image` gives."""
        ...

    def text_tokens(self, text_ids: jax.Array) -> jax.Array:
        """int [B,L] -> [B,L,D]."""
        ...

    def text_mask(self, text_ids: jax.Array) -> jax.Array:
        """int [B,L] -> bool [B,L]: which tokens are not padding."""
        ...

    def match(
        self, image_tokens: jax.Array, text_tokens: jax.Array, text_mask: jax.Array
    ) -> jax.Array:
        """Logits [B,2] (no match, match) of pairs."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A paper, as the engine sees it.

    Attributes:
      config: the method's `ModelConfig`.
      model: `model(config, policy, rngs=...)` makes the module, which has
        encode_image(image uint8 [B,H,W,3]) -> features float32 [B,C], not normalised;
        encode_text(text_ids int [B,L], language=0) -> the same, of texts in one language (an index
        into `config.languages`);
        and where `config.can_match` it is a `MatchingModel`, too.
        Variables of the module that are not `nnx.Param` (statistics of a batch norm) are part of
        the state, too; the objective may change them.
      prepare_inputs: (batch, key, config) -> inputs; on the device, a pure function.
      objective: (model, inputs, config) -> terms, those named "..._loss" carry their weights.
      parts: the objective in two parts, or None: then `config.micro_batches` must be 1.
      columns: config -> specs of what a batch holds beside the common columns.
      tokenizer: key of `tipr_jax.text.TOKENIZERS`.
      adopt: (loaded, fresh, source config, target config, as_official) -> `Adopted`: how parameters
        of another run or released file enter a new model; it gets only modules that both models
        have. Tables of positions are resized here, or with `as_official` treated as the released
        code of the paper does.
      backbone: name of the pair of encoders ("clip"): methods that share it can start from each
        other's towers. "": only from its own kind.
      epoch_hook: what to work out about the training pairs before each epoch, or None.
    """

    config: type[Any]
    model: Callable[..., nnx.Module]
    prepare_inputs: Callable[..., Inputs]
    objective: Callable[..., Terms]
    parts: Parts | None = None
    columns: Callable[[Any], tuple[ColumnSpec, ...]] = no_columns
    tokenizer: str = "clip_bpe"
    adopt: Callable[..., Adopted] = take_all
    backbone: str = ""
    epoch_hook: EpochHook | None = None
