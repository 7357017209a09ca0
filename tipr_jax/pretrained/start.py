"""How a run's parameters begin: fresh, or taken over from a run, a released file or other towers.

`config.init_from` names a run or a model directory, or several, whose parameters are taken over one
after the other. Its sizes (the last one's) replace the config's sizes (`sized_like`), its
parameters the fresh parameters (`take_over`). `config.init_positions`
decides whose image size, stride and text length hold: the source's ("adopt"), or the config's, to
which the method's `adopt` resizes the tables of positions ("resize", "as_official").
"""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tipr_jax import run_files, sharding
from tipr_jax.languages import languages_of
from tipr_jax.models import get_method
from tipr_jax.models.method import (
    POSITIONS,
    SHAPES,
    TOWER_MODULES,
    USE,
    Method,
    ModelConfig,
    Params,
)
from tipr_jax.param_tree import flatten

log = logging.getLogger("tipr_jax")


def sources(init_from: str) -> list[str]:
    """The directories of `config.init_from` in the order in which their parameters are taken over:
    one, or several with commas between them, the later over the earlier.
    """
    return [init_from] if Path(init_from).exists() else init_from.split(",")


def last_source(init_from: str) -> str:
    """The directory of `config.init_from` whose sizes and vocabulary hold; "" for none."""
    return sources(init_from)[-1]


INIT_POSITIONS = ("adopt", "resize", "as_official")


def sized_like(
    config: ConfigDict,
    source: Path | str,
    *,
    training: bool = False,
    typed: Collection[str] = (),
) -> ConfigDict:
    """`config` with the model sizes of the run or model directory `source` ("" for none).

    So a converted ViT-L/14 needs no size flags. Losses and their weights stay the config's, and in
    training the image size, stride and text length too, unless `config.init_positions` is "adopt".

    Args:
      typed: fields that the user set on the command line ("data.image_size"); they are never
        replaced.

    Raises:
      ValueError: another method's parameters, a typed field that the source contradicts, an unknown
        `init_positions`, other languages where each has parameters of its own.
    """
    if not source:
        return config
    if config.init_positions not in INIT_POSITIONS:
        raise ValueError(
            f"init_positions is {config.init_positions!r}, expected one of {INIT_POSITIONS}"
        )
    name, fields = run_files.model_fields(source)
    method = get_method(config.method)
    check_kinship(name, config.method, source)
    check_languages(method, fields, languages_of(config.data), source)
    names = method.config.fields_from(SHAPES)
    if not training or config.init_positions == "adopt":
        names |= method.config.fields_from(POSITIONS)
    if not training:
        names |= method.config.fields_from(USE)
    config = config.copy_and_resolve_references()
    changed = []
    for where in ("data", "model"):
        section: Any = config[where]
        for field in sorted(set(section) & set(fields) & names):
            if section[field] == fields[field]:
                continue
            if f"{where}.{field}" in typed:
                raise ValueError(
                    _contradiction(where, field, section[field], fields[field], source)
                )
            changed.append(f"{field} {section[field]} -> {fields[field]}")
            section[field] = fields[field]
    if changed:
        log.info("sizes taken from %s: %s", source, ", ".join(changed))
    return config


def _contradiction(where: str, field: str, given: Any, found: Any, source: Path | str) -> str:
    return (
        f"--config.{where}.{field}={given} was given, but the parameters of {source} are made for "
        f"{found}; drop the flag, or to train with tables of positions resized to the config's "
        "values add --config.init_positions=resize"
    )


def check_kinship(source_method: str, method: str, source: Path | str) -> None:
    """Raises ValueError unless a model of `method` can start from one of `source_method`."""
    backbone = get_method(method).backbone
    if source_method == method or backbone and _backbone_of(source_method) == backbone:
        return
    raise ValueError(
        f"{source} is a checkpoint of {source_method!r}, the config is for {method!r}"
        + (f", which can start from any method with {backbone!r} towers" if backbone else "")
    )


def _backbone_of(method: str) -> str:
    try:
        return get_method(method).backbone
    except ValueError:  # written by a version, or beside a package, that is not there
        return ""


def check_languages(
    method: Method, fields: Mapping[str, Any], asked: Sequence[str], source: Path | str
) -> None:
    """Raises ValueError if the source has parameters for each of other languages than the data."""
    bound = method.config.bound_languages(fields)
    if bound and bound != method.config.bound_languages({**fields, "languages": tuple(asked)}):
        raise ValueError(
            f"{source} has parameters for each of {', '.join(bound)}, the data is in "
            f"{', '.join(asked)}; set --config.data.languages={','.join(fields['languages'])}"
        )


def source_config(fields: Mapping[str, Any], method: Method, target: ModelConfig) -> ModelConfig:
    """The source's config from its stored fields.

    A source that is a part of a model (a converted text tower) does not tell all: its image size
    and the like are then the target's.
    """
    known = {field.name for field in dataclasses.fields(method.config)}
    shared = known & {field.name for field in dataclasses.fields(type(target))}
    sizes = method.config.fields_from(SHAPES, POSITIONS) & shared
    values = {name: getattr(target, name) for name in sizes} | {
        name: value for name, value in fields.items() if name in known
    }
    return method.config(**values).for_inference()


def take_over(
    fresh: Params,
    loaded: Params,
    source: Path | str,
    *,
    fields: Mapping[str, Any],
    source_method: str,
    method: Method,
    target: ModelConfig,
    as_official: bool,
) -> Params:
    """`fresh` parameters with the values of `loaded` in their places and layouts.

    Modules that only one side has (training heads) stay as they are; between different methods only
    the towers pass. Logs where every parameter comes from.

    Raises:
      ValueError: a parameter of a shared module is missing or has another shape.
    """
    other = get_method(source_method)
    origin = source_config(fields, other, target)
    shared = set(loaded) & set(fresh)
    if other is not method:
        shared &= TOWER_MODULES
    loaded = {name: module for name, module in loaded.items() if name in shared}
    adopted = method.adopt(loaded, fresh, origin, target, as_official)
    expected = {name: fresh[name] for name in adopted.params}
    check_shapes(adopted.params, expected, str(source))
    log_origins(fresh, adopted.params, adopted.notes, source)
    placed = jax.tree.map(_place, adopted.params, expected)
    return fresh | placed


def log_origins(fresh: Params, taken: Params, notes: Mapping[str, str], source: Path | str) -> None:
    """One line about the modules that stay fresh, and one per parameter that was changed."""
    left = ", ".join(sorted(set(fresh) - set(taken))) or "none"
    log.info("parameters from %s: %d taken; fresh modules: %s", source, len(flatten(taken)), left)
    for path, note in sorted(notes.items()):
        log.info("  %-44s %s", path, note)


def _place(value: Any, old: Any) -> jax.Array:
    return sharding.put_params(np.asarray(value, old.dtype), old.sharding)


def check_shapes(given: Params, expected: Params, source: str) -> None:
    """Raises ValueError, naming parameters and shapes, unless the trees agree."""
    found, wanted = (
        {path: list(np.shape(value)) for path, value in flatten(tree).items()}
        for tree in (given, expected)
    )
    wrong = [
        f"{k}: {found.get(k, 'nothing')} given, {wanted.get(k, 'nothing')} expected"
        for k in sorted(found | wanted)
        if found.get(k) != wanted.get(k)
    ]
    if wrong:
        raise ValueError(
            f"{source} does not fit the model, {len(wrong)} parameters differ "
            f"({'; '.join(wrong[:3])}); set config.model and config.data.image_size to its sizes"
        )
