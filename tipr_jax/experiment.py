"""From a config to the objects of a run: model, mesh, layouts, abstract shapes and optimiser."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from tipr_jax import batch, checkpoints, optim, run_files, sharding
from tipr_jax.languages import languages_of
from tipr_jax.models import get_method
from tipr_jax.models.method import Method, ModelConfig, Params
from tipr_jax.precision import FLOAT16_RELEASED, ComputePolicy, policy
from tipr_jax.pretrained import start
from tipr_jax.train_state import (
    TrainState,
    create_state,
    define_model,
    select_params,
    split,
    trained,
)
from tipr_jax.train_step import check_micro_batches


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model on a mesh: what training, evaluation, embedding and export have in common.

    abstract: the model's variables as `nnx.State` of shapes; abstract_params and param_shardings
    are nested dicts of all of them; init: key -> the same dict with values.
    """

    config: ConfigDict
    method: Method
    model_config: ModelConfig
    graphdef: nnx.GraphDef
    mesh: Mesh
    rules: dict
    abstract: nnx.State
    abstract_params: Params
    param_shardings: Params
    init: Callable[[jax.Array], Params]

    @property
    def batch_sharding(self) -> NamedSharding:
        return sharding.batch_sharding(self.mesh, self.rules)

    @property
    def replicated(self) -> NamedSharding:
        return sharding.replicated(self.mesh)

    @property
    def column_specs(self) -> tuple[batch.ColumnSpec, ...]:
        """What a training batch holds beside the common columns."""
        return self.method.columns(self.model_config)

    @functools.cached_property
    def keys(self) -> tuple[jax.Array, jax.Array]:
        """(initialisation, training step) keys of the run."""
        first, second = jax.random.split(jax.random.key(self.config.seed))
        return first, second


def build(
    config: ConfigDict, *, devices: Sequence[Any] | None = None, **model_fields: Any
) -> Experiment:
    """Everything but the parameter values; `model_fields` (num_persons) override the config.

    devices: all devices of this job, or the devices of another machine to compile for.

    Raises:
      ValueError: unknown method, model field, rules; a mesh or batch that does not fit.
    """
    method = get_method(config.method)
    model_config = make_model_config(method, config, model_fields)
    if config.mesh.rules not in sharding.RULES:
        raise ValueError(
            f"mesh.rules is {config.mesh.rules!r}, expected one of {sorted(sharding.RULES)}"
        )
    rules = sharding.RULES[config.mesh.rules]
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model, devices)
    for name, section in {"data": config.data, "eval": config.eval}.items():
        sharding.check_batch_size(f"{name}.batch_size", section.batch_size, mesh, rules)
    shards = sharding.batch_shards(mesh, rules)
    check_micro_batches(method, config.micro_batches, config.data.batch_size, shards)
    check_row_group(model_config, config.data.batch_size, config.micro_batches)
    return _assemble(config, method, model_config, mesh, rules)


def check_row_group(model_config: ModelConfig, batch_size: int, micro_batches: int) -> None:
    """Raises ValueError unless a batch, and each micro-batch, is cut into whole groups of rows."""
    group = min(model_config.row_group, batch_size)
    if batch_size % group or micro_batches > 1 and batch_size // micro_batches % group:
        raise ValueError(
            f"data.batch_size {batch_size} in {micro_batches} micro-batches cannot be cut into "
            f"groups of {group} rows, which belong together in this model; choose a multiple of "
            f"{group * micro_batches}, or another group size in config.model"
        )


def _assemble(
    config: ConfigDict, method: Method, model_config: ModelConfig, mesh: Mesh, rules: dict
) -> Experiment:
    graphdef, abstract, init = define_model(
        method, model_config, compute_policy(config, mesh, rules)
    )
    return Experiment(
        config=config,
        method=method,
        model_config=model_config,
        graphdef=graphdef,
        mesh=mesh,
        rules=rules,
        abstract=abstract,
        abstract_params=nnx.to_pure_dict(abstract),
        param_shardings=sharding.param_shardings(abstract, mesh, rules),
        init=init,
    )


def compute_policy(config: ConfigDict, mesh: Mesh, rules: dict) -> ComputePolicy:
    """The config's policy on this mesh."""
    how = policy(
        config.precision,
        remat=config.remat,
        attention=config.attention,
        activations=sharding.batch_sharding(mesh, rules),
    )
    heads_axis = rules.get(sharding.HEADS)
    if heads_axis and mesh.shape[heads_axis] > 1:
        # Every device holds a few heads already, and a group would be moved between devices.
        return dataclasses.replace(how, score_bytes=0)
    return how


def make_model_config(method: Method, config: ConfigDict, model_fields: dict) -> ModelConfig:
    """The method's frozen config from `config.model`, the data's shapes and languages."""
    image_size = tuple(config.data.image_size)
    if len(image_size) != 2:
        raise ValueError(
            f"data.image_size is {image_size}, expected height and width, as in "
            '--config.data.image_size="(384, 128)"'
        )
    known = {f.name for f in dataclasses.fields(method.config)}
    fields = config.model.to_dict()
    if method.config.num_persons:
        fields |= model_fields
    if method.config.languages and (languages := languages_of(config.data)):
        fields["languages"] = languages
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"config.model has unknown fields {unknown}; {config.method} knows {sorted(known)}"
        )
    return method.config(image_size=image_size, text_length=config.data.text_length, **fields)


def abstract_batch(exp: Experiment, rows: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the global training batch, or of `rows` of it."""
    c = exp.config.data
    size = tuple(c.image_size)
    return batch.abstract_batch(rows or c.batch_size, size, c.text_length, exp.column_specs)


def for_inference(exp: Experiment) -> Experiment:
    """The same experiment without training heads: what evaluation and embedding need."""
    return _assemble(exp.config, exp.method, exp.model_config.for_inference(), exp.mesh, exp.rules)


def make_optimizer(
    exp: Experiment, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, np.ndarray]:
    """The config's optimiser for this model, and its learning rates [epochs, groups]."""
    config = exp.config
    how = compute_policy(config, exp.mesh, exp.rules)
    every_head = define_model(exp.method, exp.model_config.complete(), how)[1]
    params, half = trained(exp.abstract), None
    if config.precision == FLOAT16_RELEASED:
        if not (pattern := config.optimizer.get("float16", "")):
            raise ValueError(
                f"precision is {FLOAT16_RELEASED!r}, but optimizer.float16 names no parameters: "
                f"the released {config.method} did not train in float16"
            )
        half = optim.named_like(params, pattern)
    return optim.make_optimizer(
        config.optimizer, config.schedule, params, steps_per_epoch, trained(every_head), half
    )


def abstract_state(
    exp: Experiment, optimizer: optax.GradientTransformation, num_pairs: int = 1
) -> TrainState:
    """Shapes, dtypes and shardings of the train state, for restoring and for jit.

    num_pairs: of the train split; to compile a step without data, one is enough.
    """
    shapes = jax.eval_shape(
        lambda key, pairs: new_state(exp, exp.init(key), optimizer, pairs),
        exp.keys[0],
        initial_pairs(exp, num_pairs),
    )
    layout = sharding.like_params(shapes, exp.param_shardings, exp.mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout
    )


def new_state(
    exp: Experiment, weights: Params, optimizer: optax.GradientTransformation, pairs: dict
) -> TrainState:
    """The state at step 0 from all variables of the model and what is known of the pairs."""
    params, statistics = split(weights, trained(exp.abstract))
    return create_state(params, optimizer, statistics, pairs)


def initial_pairs(exp: Experiment, num_pairs: int) -> dict[str, np.ndarray]:
    """What the method's epoch hook knows of each training pair before its first call."""
    hook = exp.method.epoch_hook
    columns = hook.arrays(exp.model_config) if hook else {}
    return {
        name: np.full((num_pairs, *column.shape), column.padding, column.dtype)
        for name, column in columns.items()
    }


def initial_params(exp: Experiment) -> Params:
    """Fresh variables of the model, with the values of `config.init_from` in their places."""
    # It runs once, so on a CPU half of the compiler's work is saved; the values are the same.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    init = jax.jit(exp.init, out_shardings=exp.param_shardings, compiler_options=options)
    fresh = init(exp.keys[0])
    for source in filter(None, start.sources(exp.config.init_from)):
        name, fields = run_files.model_fields(source)
        fresh = start.take_over(
            fresh,
            checkpoints.load_params(source)[1],
            source,
            fields=fields,
            source_method=name,
            method=exp.method,
            target=exp.model_config,
            as_official=exp.config.init_positions == "as_official",
        )
    return fresh


def source_of(config: ConfigDict, workdir: Path) -> Path | str:
    """What to evaluate: the run in `workdir` if there is one, else `config.init_from` or ""."""
    return workdir if run_files.is_run(workdir) else start.last_source(config.init_from)


def inference_params(exp: Experiment, workdir: Path, language: str = "") -> tuple[int, Params]:
    """(step, tower parameters) to evaluate: of `workdir`'s best checkpoint, else `init_from`.

    Training heads in the checkpoint are ignored. language: take the checkpoint that is best in it.

    Raises:
      ValueError: neither exists, or the parameters do not fit the model.
    """
    source = source_of(exp.config, workdir)
    if not source:
        raise ValueError(
            f"nothing to evaluate: {workdir} has no checkpoints and --config.init_from is empty; "
            "train first, or pass a directory made by `python -m tipr_jax.convert`"
        )
    step, arrays = inference_arrays(exp, source, language)
    return step, put_inference_params(exp, arrays)


def put_inference_params(exp: Experiment, arrays: Params) -> Params:
    """What `inference_arrays` gives, on the devices."""
    return sharding.put_params(arrays, for_inference(exp).param_shardings)


def inference_arrays(exp: Experiment, source: Path | str, language: str = "") -> tuple[int, Params]:
    """`inference_params` of one run or model directory, as numpy arrays that each process has.

    Raises:
      ValueError: they do not fit the model.
    """
    step, loaded = checkpoints.load_params(source, language)
    exp = for_inference(exp)
    if missing := sorted(set(exp.abstract_params) - set(loaded)):
        raise ValueError(f"{source} lacks {missing}; it has {sorted(loaded)}")
    loaded = select_params(loaded, exp.abstract_params)
    start.check_shapes(loaded, exp.abstract_params, str(source))
    return step, loaded
