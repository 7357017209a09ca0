"""The table of what `python -m tipr_jax.convert` converts.

A file of this package that reads a source of weights has a table CONVERTERS: {name: Converter}. A
converter that lives elsewhere is named with its module: `my_package.my_weights.my_name`.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tipr_jax import pretrained
from tipr_jax.param_tree import Params
from tipr_jax.pretrained.key_table import StateDict

Converted = tuple[Params, dict[str, Any]]  # parameters, fields of the method's config


class Converter(NamedTuple):
    """How one kind of file becomes parameters.

    method: the method that the parameters belong to.
    forward: (one state dict per source, image_size, stride, **options) -> `Converted`.
    help: a line or two for --help.
    reverse: parameters -> state dict with the official names, where that exists.
    image_size: the default (height, width); None where the file tells it.
    sources: how many files it reads, 1 (--input) or 2 (--text, too).
    test_resize: filter for photos in evaluation and search with the converted model.
    options: further arguments of `forward` and their choices; not given, the argument is not.
    reads_settings: `forward` takes settings, what stands beside each source (`settings`).
    """

    method: str
    forward: Callable[..., Converted]
    help: str
    reverse: Callable[[Params], StateDict] | None = None
    image_size: tuple[int, int] | None = (384, 128)
    sources: int = 1
    test_resize: str = "bilinear"
    options: Mapping[str, tuple[str, ...]] = {}
    reads_settings: bool = False


@functools.cache
def converters() -> dict[str, Converter]:
    """All converters of this package by name, sorted."""
    found: dict[str, Converter] = {}
    for module in pkgutil.iter_modules(pretrained.__path__):
        if module.name not in ("converter", "start"):
            imported = importlib.import_module(f"{pretrained.__name__}.{module.name}")
            found |= getattr(imported, "CONVERTERS", {})
    return dict(sorted(found.items()))


def get_converter(name: str) -> Converter:
    """The converter `name`; with dots, "module.name" of one outside of this package.

    Raises:
      ValueError: there is none.
    """
    module, _, last = name.rpartition(".")
    table = converters()
    if module:
        try:
            table = getattr(importlib.import_module(module), "CONVERTERS", {})
        except ModuleNotFoundError as error:
            raise ValueError(f"--method={name}: {error}") from None
    if last not in table:
        where = f" in CONVERTERS of {module}" if module else ""
        raise ValueError(f"--method={name} is unknown, expected one of {', '.join(table)}{where}")
    return table[last]
