"""From a config to the objects of a run: model, mesh, layouts, initial and restored parameters."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from tipr_jax import checkpoints, sharding
from tipr_jax.models import MODELS, Method
from tipr_jax.precision import policy
from tipr_jax.train_state import TrainState, create_state, define_model

log = logging.getLogger("tipr_jax")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model on a mesh: what training, evaluation, embedding and export have in common."""

    config: ConfigDict
    method: Method
    model_config: Any
    graphdef: nnx.GraphDef
    mesh: Mesh
    rules: dict
    param_shardings: dict
    init: Callable[[jax.Array], Any]

    @property
    def batch_sharding(self) -> NamedSharding:
        return sharding.batch_sharding(self.mesh, self.rules)

    @property
    def replicated(self) -> NamedSharding:
        return sharding.replicated(self.mesh)

    @functools.cached_property
    def keys(self) -> tuple[jax.Array, jax.Array]:
        """(initialisation, training step) keys of the run."""
        return tuple(jax.random.split(jax.random.key(self.config.seed)))


def build(config: ConfigDict, **model_fields: Any) -> Experiment:
    """Everything but the parameter values; `model_fields` (num_persons) override the config.

    Raises:
      ValueError: unknown method, model field, rules; a mesh or batch that does not fit.
    """
    if config.method not in MODELS:
        raise ValueError(f"method is {config.method!r}, expected one of {sorted(MODELS)}")
    method = MODELS[config.method]
    model_config = make_model_config(method, config, model_fields)
    if config.mesh.rules not in sharding.RULES:
        raise ValueError(
            f"mesh.rules is {config.mesh.rules!r}, expected one of {sorted(sharding.RULES)}"
        )
    rules = sharding.RULES[config.mesh.rules]
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model)
    sharding.check_batch_size(config.data.batch_size, mesh, rules)
    sharding.check_batch_size(config.eval.batch_size, mesh, rules)
    graphdef, abstract, init = define_model(method, model_config, policy(config.precision))
    return Experiment(
        config=config,
        method=method,
        model_config=model_config,
        graphdef=graphdef,
        mesh=mesh,
        rules=rules,
        param_shardings=sharding.param_shardings(abstract, mesh, rules),
        init=init,
    )


def make_model_config(method: Method, config: ConfigDict, model_fields: dict) -> Any:
    """The method's frozen Config from `config.model` and the data's shapes."""
    fields = config.model.to_dict() | model_fields
    known = {f.name for f in dataclasses.fields(method.config)}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"config.model has unknown fields {unknown}; {config.method} knows {sorted(known)}")
    return method.config(
        image_size=tuple(config.data.image_size), text_length=config.data.text_length, **fields
    )


def initial_params(exp: Experiment) -> Any:
    """Fresh parameters, with those of `config.init_from` put in their places."""
    params = jax.jit(exp.init, out_shardings=exp.param_shardings)(exp.keys[0])
    if exp.config.init_from:
        loaded, _ = checkpoints.load_params(exp.config.init_from)
        params = overlay(params, loaded, exp.config.init_from)
    return params


def trained_towers(exp: Experiment, workdir: Path) -> tuple[int, Any]:
    """(step, parameters) to evaluate: the best checkpoint of `workdir`, else `config.init_from`.

    `exp` is built without training heads (losses=()); heads in the checkpoint are ignored.

    Raises:
      ValueError: neither exists, or the parameters do not fit the model.
    """
    if has_checkpoints(workdir):
        source, (step, loaded) = str(workdir), checkpoints.load_run_params(workdir)
    elif exp.config.init_from:
        source, step = exp.config.init_from, 0
        loaded, _ = checkpoints.load_params(source)
    else:
        raise ValueError(
            f"nothing to evaluate: {workdir} has no checkpoints and --config.init_from is empty; "
            "train first, or pass a directory made by `python -m tipr_jax.convert`"
        )
    params = jax.jit(exp.init, out_shardings=exp.param_shardings)(exp.keys[0])
    if missing := sorted(set(params) - set(loaded)):
        raise ValueError(f"{source} lacks {missing}; it has {sorted(loaded)}")
    return step, overlay(params, {k: loaded[k] for k in params}, source)


def has_checkpoints(workdir: Path) -> bool:
    return (workdir / "checkpoints").is_dir() and any((workdir / "checkpoints").iterdir())


def overlay(params: Any, loaded: Any, source: str) -> Any:
    """`params` with the values of `loaded`, keeping placement.

    Parameters that `loaded` lacks stay fresh and are logged, as is a classifier of another number
    of identities (it belongs to its data set).

    Raises:
      ValueError: for a parameter of another shape, or one that the model does not have.
    """
    flat = _flatten(params)
    given = _flatten(loaded)
    own_classes = {
        k for k in given if k.startswith("classifier/") and k in flat and given[k].shape != flat[k].shape
    }
    given = {k: v for k, v in given.items() if k not in own_classes}
    wrong = [
        f"{k}: {list(v.shape)} given, {list(flat[k].shape) if k in flat else 'nothing'} expected"
        for k, v in given.items()
        if k not in flat or flat[k].shape != v.shape
    ]
    if wrong:
        raise ValueError(
            f"init_from {source} does not fit the model, {len(wrong)} parameters differ "
            f"({'; '.join(wrong[:3])}); set config.model and config.data.image_size to its sizes"
        )
    if fresh := sorted({k.split("/")[0] for k in flat if k not in given}):
        log.info("parameters from %s; freshly initialised: %s", source, ", ".join(fresh))

    def pick(path: tuple, value: jax.Array) -> jax.Array:
        name = "/".join(k.key for k in path)
        if name not in given:
            return value
        return jax.device_put(np.asarray(given[name], value.dtype), value.sharding)

    return jax.tree.map_with_path(pick, params)


def _flatten(params: Any) -> dict[str, Any]:
    return {"/".join(k.key for k in path): v for path, v in jax.tree.leaves_with_path(params)}


def abstract_state(exp: Experiment, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes, dtypes and shardings of the train state, for restoring and for jit."""
    shapes = jax.eval_shape(lambda key: create_state(exp.init(key), optimizer), exp.keys[0])
    layout = sharding.like_params(shapes, exp.param_shardings, exp.mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout
    )


def config_hash(config: ConfigDict) -> str:
    """Twelve hex digits that change with any field of the config."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def save_config(config: ConfigDict, workdir: Path) -> None:
    """Writes `config.json`; says which fields differ from the one that a resumed run had."""
    path = workdir / "config.json"
    new = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        old = ConfigDict(json.loads(path.read_text()))
        before, after = _leaves(old.to_dict()), _leaves(new)
        changed = sorted(k for k in before | after if before.get(k) != after.get(k))
        if changed:
            log.warning(
                "%s continues with a changed config: %s",
                workdir,
                "; ".join(f"{k} {before.get(k)} -> {after.get(k)}" for k in changed),
            )
    path.write_text(json.dumps(new, indent=2) + "\n")


def _leaves(tree: dict, prefix: str = "") -> dict[str, Any]:
    out = {}
    for key, value in tree.items():
        out |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
