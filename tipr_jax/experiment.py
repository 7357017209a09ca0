"""From a config to the objects of a run: model, mesh, layouts, initial and restored parameters."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from tipr_jax import batch, checkpoints, distributed, optim, sharding
from tipr_jax.languages import languages_of
from tipr_jax.models import MODELS, Method
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.pretrained import ivt
from tipr_jax.train_state import TrainState, create_state, define_model, select_params
from tipr_jax.train_step import check_micro_batches

log = logging.getLogger("tipr_jax")

# The fields of a model config that its parameters determine ...
SIZES = {
    "patch",
    "width",
    "depth",
    "heads",
    "vision_width",
    "vision_depth",
    "vision_heads",
    "text_width",
    "text_depth",
    "text_heads",
    "text_ffn",
    "vocab_size",
    "max_positions",
    "embed_dim",
    "fusion_depth",
    "fusion_ffn",
    "tie_decoder",
    "separate_target_proj",
}
# ... and those that resizing a table of positions can change.
GEOMETRY = {"image_size", "stride", "text_length"}
# Of a model that is only evaluated also how its parameters were trained to be used.
USE = {"positions", "fusion_epsilon"}
POSITIONS = ("adopt", "resize", "as_official")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model on a mesh: what training, evaluation, embedding and export have in common."""

    config: ConfigDict
    method: Method
    model_config: Any
    graphdef: nnx.GraphDef
    mesh: Mesh
    rules: dict
    abstract_params: dict
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


def build(
    config: ConfigDict, *, devices: Sequence[Any] | None = None, **model_fields: Any
) -> Experiment:
    """Everything but the parameter values; `model_fields` (num_persons) override the config.

    devices: all of this job's, or those of another machine to compile for.

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
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model, devices)
    for section in ("data", "eval"):
        batch_size = config[section].batch_size
        sharding.check_batch_size(f"{section}.batch_size", batch_size, mesh, rules)
    group = min(getattr(model_config, "itm_group_size", 1), config.data.batch_size)
    if config.data.batch_size % group:
        raise ValueError(
            f"data.batch_size {config.data.batch_size} cannot be cut into groups of {group} rows, "
            "which share hard negatives and patch masks; choose a multiple, or another "
            "--config.model.itm_group_size"
        )
    shards = sharding.batch_shards(mesh, rules)
    check_micro_batches(method, config.micro_batches, config.data.batch_size, shards)
    return _assemble(config, method, model_config, mesh, rules)


def _assemble(config: ConfigDict, method: Method, model_config: Any, mesh: Mesh, rules: dict):
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
        abstract_params=nnx.to_pure_dict(abstract),
        param_shardings=sharding.param_shardings(abstract, mesh, rules),
        init=init,
    )


def compute_policy(config: ConfigDict, mesh: Mesh, rules: dict) -> ComputePolicy:
    return policy(
        config.precision,
        remat=config.remat,
        attention=config.attention,
        activations=sharding.batch_sharding(mesh, rules),
    )


def abstract_batch(exp: Experiment, rows: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the global training batch, or of `rows` of it."""
    c, columns = exp.config.data, exp.method.columns(exp.model_config)
    return batch.abstract_batch(rows or c.batch_size, tuple(c.image_size), c.text_length, columns)


def towers(exp: Experiment) -> Experiment:
    """The same experiment without training heads: what evaluation and embedding need."""
    return _assemble(exp.config, exp.method, exp.model_config.towers(), exp.mesh, exp.rules)


def make_optimizer(
    exp: Experiment, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, np.ndarray]:
    """The config's optimiser for this model, and its learning rates [epochs, groups]."""
    config = exp.config
    how = compute_policy(config, exp.mesh, exp.rules)
    heads = define_model(exp.method, exp.model_config.complete(), how)[2]
    params, complete = (jax.eval_shape(init, exp.keys[0]) for init in (exp.init, heads))
    return optim.make_optimizer(
        config.optimizer, config.schedule, params, steps_per_epoch, complete
    )


def make_model_config(method: Method, config: ConfigDict, model_fields: dict) -> Any:
    """The method's frozen Config from `config.model`, the data's shapes and languages."""
    image_size = tuple(config.data.image_size)
    if len(image_size) != 2:
        raise ValueError(
            f"data.image_size is {image_size}, expected height and width, as in "
            '--config.data.image_size="(384, 128)"'
        )
    known = {f.name for f in dataclasses.fields(method.config)}
    # Not every method has classes to count.
    fields = config.model.to_dict() | {k: v for k, v in model_fields.items() if k in known}
    if "languages" in known and (languages := languages_of(config.data)):
        fields["languages"] = languages
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"config.model has unknown fields {unknown}; {config.method} knows {sorted(known)}"
        )
    return method.config(image_size=image_size, text_length=config.data.text_length, **fields)


def initial_params(exp: Experiment) -> Any:
    """Fresh parameters, with those of `config.init_from` put in their places."""
    params = jax.jit(exp.init, out_shardings=exp.param_shardings)(exp.keys[0])
    if not exp.config.init_from:
        return params
    _, loaded = checkpoints.load_params(exp.config.init_from)
    if exp.config.init_positions == "adopt":
        return overlay(params, loaded, exp.config.init_from)
    return hand_over(exp, params, loaded)


def hand_over(exp: Experiment, params: Any, loaded: Any) -> Any:
    """`params` with the values of `loaded`, positions resized; logs where every tensor comes from.

    Raises:
      ValueError: a tensor whose shape differs for another reason.
    """
    config = exp.config
    _, source = checkpoints.model_fields(config.init_from)
    result = ivt.hand_over(
        loaded,
        params,
        source_grid=ivt.grid_of(source),
        target_grid=ivt.grid_of(dataclasses.asdict(exp.model_config)),
        as_official=config.init_positions == "as_official",
    )
    log.info("parameters from %s:", config.init_from)
    for path, origin in result.log.items():
        log.info("  %-44s %s", path, origin)
    return jax.tree.map(_place, result.params, params)


def trained_towers(exp: Experiment, workdir: Path) -> tuple[int, Any]:
    """(step, tower parameters) to evaluate: of `workdir`'s best checkpoint, else `init_from`.

    Training heads in the checkpoint are ignored.

    Raises:
      ValueError: neither exists, or the parameters do not fit the model.
    """
    source = source_of(exp.config, workdir)
    if not source:
        raise ValueError(
            f"nothing to evaluate: {workdir} has no checkpoints and --config.init_from is empty; "
            "train first, or pass a directory made by `python -m tipr_jax.convert`"
        )
    step, loaded = checkpoints.load_params(source)
    exp = towers(exp)
    if missing := sorted(set(exp.abstract_params) - set(loaded)):
        raise ValueError(f"{source} lacks {missing}; it has {sorted(loaded)}")
    loaded = select_params(loaded, exp.abstract_params)
    check_shapes(loaded, exp.abstract_params, str(source))
    return step, sharding.put_params(loaded, exp.param_shardings)


def source_of(config: ConfigDict, workdir: Path) -> Path | str:
    """What to evaluate: the run in `workdir` if there is one, else `config.init_from` or ""."""
    return workdir if checkpoints.is_run(workdir) else config.init_from


def adopt_model(config: ConfigDict, source: Path | str, *, training: bool = False) -> ConfigDict:
    """`config` with the model sizes of the run or model directory `source` ("" for none).

    So a converted ViT-L/14 needs no size flags. Losses and their weights stay the config's, and in
    training the image size, stride and text length too, unless `config.init_positions` is "adopt".
    """
    if not source:
        return config
    method, fields = checkpoints.model_fields(source)
    if config.init_positions not in POSITIONS:
        raise ValueError(
            f"init_positions is {config.init_positions!r}, expected one of {POSITIONS}"
        )
    if method != config.method:
        raise ValueError(
            f"{source} is a checkpoint of {method!r}, the config is for {config.method!r}"
        )
    if config.init_positions != "adopt" and "stride" not in config.model:
        raise ValueError(
            f"init_positions is {config.init_positions!r}, but the positions of {method} cannot be "
            "resized; leave it at 'adopt', which takes the image size of init_from"
        )
    trained, asked = fields.get("languages", ()), languages_of(config.data)
    if fields.get("separate_target_proj") and trained[1:] != asked[1:]:
        raise ValueError(
            f"{source} has a projection each for {', '.join(trained[1:])}, the data is in "
            f"{', '.join(asked)}; set --config.data.languages={','.join(trained)}"
        )
    config = config.copy_and_resolve_references()
    names = set(SIZES)
    if not training or config.init_positions == "adopt":
        names |= GEOMETRY
    if not training:
        names |= USE
    changed = []
    for section in (config.data, config.model):
        for name in sorted(set(section) & set(fields) & names):
            if section[name] != fields[name]:
                changed.append(f"{name} {section[name]} -> {fields[name]}")
                section[name] = fields[name]
    if changed:
        log.info("sizes taken from %s: %s", source, ", ".join(changed))
    return config


def overlay(params: Any, loaded: Any, source: str) -> Any:
    """`params` with the values of `loaded`, keeping placement.

    Modules that only one side has (training heads) are logged and stay as they are, and so is a
    classifier of another number of identities, which belongs to its data set.

    Raises:
      ValueError: for a parameter of a shared module that is missing or has another shape.
    """
    loaded = {k: v for k, v in loaded.items() if k in params}
    if "classifier" in loaded and not _shapes(loaded["classifier"]) == _shapes(
        params["classifier"]
    ):
        del loaded["classifier"]
    expected = {k: params[k] for k in loaded}
    if "target_proj" in loaded:
        loaded["target_proj"] = _one_each(loaded["target_proj"], expected["target_proj"])
    loaded, expected = _shared_mask(loaded, expected), _shared_mask(expected, loaded)
    check_shapes(loaded, expected, source)
    fresh = sorted(set(params) - set(loaded))
    log.info("parameters from %s; fresh: %s", source, ", ".join(fresh) or "none")

    placed = jax.tree.map(_place, loaded, expected)
    return params | {k: params[k] | v if isinstance(v, dict) else v for k, v in placed.items()}


def _one_each(loaded: Any, expected: Any) -> Any:
    """The one projection of all target languages as the start of theirs, where each has its own."""
    count = len(expected["kernel"])
    if len(loaded["kernel"]) != 1 or count == 1:
        return loaded
    log.info("the projection of the target languages is the start of %d of them", count)
    return {name: np.repeat(np.asarray(value), count, axis=0) for name, value in loaded.items()}


def _shared_mask(params: Any, other: Any) -> Any:
    """`params`; its token for masked patches, which a run without them lacks, if both have it."""
    encoder, there = (tree.get("image_encoder", {}) for tree in (params, other))
    if "mask_embed" not in encoder or "mask_embed" in there:
        return params
    return params | {"image_encoder": {k: v for k, v in encoder.items() if k != "mask_embed"}}


def _place(value: Any, old: jax.Array) -> jax.Array:
    return sharding.put_params(np.asarray(value, old.dtype), old.sharding)


def check_shapes(given: Any, expected: Any, source: str) -> None:
    """Raises ValueError, naming parameters and shapes, unless the trees agree."""
    given, expected = _shapes(given), _shapes(expected)
    wrong = [
        f"{k}: {given.get(k, 'nothing')} given, {expected.get(k, 'nothing')} expected"
        for k in sorted(given | expected)
        if given.get(k) != expected.get(k)
    ]
    if wrong:
        raise ValueError(
            f"{source} does not fit the model, {len(wrong)} parameters differ "
            f"({'; '.join(wrong[:3])}); set config.model and config.data.image_size to its sizes"
        )


def _shapes(params: Any) -> dict[str, list[int]]:
    leaves = jax.tree.leaves_with_path(params)
    return {"/".join(k.key for k in path): list(np.shape(v)) for path, v in leaves}


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
    """Writes `config.json`; says which fields differ from the one that a resumed run had.

    Process 0 alone does.
    """
    if not distributed.is_writer():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    new = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        old = ConfigDict(json.loads(path.read_text()))
        before, after = flat_fields(old), flat_fields(ConfigDict(new))
        changed = sorted(k for k in before | after if before.get(k) != after.get(k))
        if changed:
            log.warning(
                "%s continues with a changed config: %s",
                workdir,
                "; ".join(f"{k} {before.get(k)} -> {after.get(k)}" for k in changed),
            )
    draft = path.with_name("config.json.partial")
    draft.write_text(json.dumps(new, indent=2) + "\n")
    draft.replace(path)


def flat_fields(config: ConfigDict) -> dict[str, Any]:
    """{"data.batch_size": 64, ...}: every field of a config by its dotted name."""
    return _leaves(config.to_dict())


def _leaves(tree: dict, prefix: str = "") -> dict[str, Any]:
    out = {}
    for key, value in tree.items():
        out |= (
            _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return out
