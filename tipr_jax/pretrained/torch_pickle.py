"""Reads what training scripts save with `torch.save`, without running anything that is in it.

It is the `pickle_module` of `torch.load`. Tensors, numbers and containers are read. Objects of
other classes (an `argparse.Namespace`, an `EasyDict` of settings, a whole model) become `Foreign`,
an empty shell that knows their name: their code is neither imported nor run. A file that asks for a
function of Python itself, as `os.system`, is refused.
"""

import collections
import importlib
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, BinaryIO

_CONTAINERS = {"bytearray", "complex", "dict", "frozenset", "list", "set", "slice", "tuple"}
_REBUILD = {
    "_rebuild_parameter",
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
}
_NUMPY = {"numpy.core.multiarray", "numpy._core.multiarray"}  # before and since numpy 2
# Classes of Python's library that hold settings and nothing else.
_SETTINGS = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
}


class Foreign:
    """What stands for an object of another class; it takes any content and keeps none.

    `name` is the class's full name.
    """

    name = ""

    def __init__(self, *args: Any, **kwargs: Any): ...

    def __new__(cls, *args: Any, **kwargs: Any) -> "Foreign":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


class Unpickler(pickle.Unpickler):
    """`pickle.Unpickler` that finds only what the head of this file names."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function `module.name`, or a class of `Foreign` objects.

        Raises:
          pickle.UnpicklingError: a function or class of Python that is not plain data.
        """
        # Names as Python 2 had them, in which protocol 2 writes: __builtin__.eval.
        module, name = NAME_MAPPING.get((module, name), (module, name))
        module = IMPORT_MAPPING.get(module, module)
        if known := _known(module, name):
            return known
        full = f"{module}.{name}"
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names and top != "__main__" and full not in _SETTINGS:
            raise pickle.UnpicklingError(f"it would run {full}, which no weights need")
        return type("Foreign", (Foreign,), {"name": full})


def _known(module: str, name: str) -> Any:
    """The object, where reading it runs no code of the file; else None."""
    import numpy as np
    import torch

    if module == "builtins" and name in _CONTAINERS:
        return getattr(__import__("builtins"), name)
    if module == "collections" and name in ("OrderedDict", "defaultdict"):
        return getattr(collections, name)
    if module == "torch._utils" and name in _REBUILD:
        return getattr(importlib.import_module(module), name)
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module == "torch" and name in ("Size", "device", "Tensor"):
        return getattr(torch, name)
    if module == "torch.nn.parameter" and name == "Parameter":
        return torch.nn.Parameter
    if module in _NUMPY and name == "scalar":
        return np.dtype("f8").type(0).__reduce__()[0]
    if module in _NUMPY and name == "_reconstruct":
        return np.empty(0).__reduce__()[0]
    if module == "numpy" and name in ("dtype", "ndarray"):
        return getattr(np, name)
    if module == "_codecs" and name == "encode":  # how numpy 1 writes bytes
        return lambda text, encoding: text.encode("latin1")
    if module == "copyreg" and name == "_reconstructor":  # of objects in an old protocol
        return lambda kind, base, state: Foreign() if issubclass(kind, Foreign) else kind()
    return None


def load(file: BinaryIO, **options: Any) -> Any:
    """`pickle.load` with the `Unpickler` of this file."""
    return Unpickler(file, **options).load()
