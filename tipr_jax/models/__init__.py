"""One paper per file. `get_method` finds the `METHOD` of a file by the name in `config.method`."""

import functools
import importlib
import pkgutil

from tipr_jax.models.method import Method

_NOT_PAPERS = {"method"}


def method_names() -> list[str]:
    """The papers of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_PAPERS)


@functools.cache
def get_method(name: str) -> Method:
    """The method `name`: a file of this package, or with dots any module that defines `METHOD`.

    Raises:
      ValueError: there is none.
    """
    known = f"expected one of {method_names()}, or with dots a module that defines METHOD"
    module_name = name if "." in name else f"{__name__}.{name}"
    if module_name != name and name not in method_names():
        raise ValueError(f"method is {name!r}, {known}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or " "):
            raise  # the module is there, and lacks one of its own imports
        raise ValueError(f"method is {name!r}, {known}; {error}") from None
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        raise ValueError(f"method is {name!r}, {known}; {module.__name__} does not define it")
    return method
