"""A model's programs as ONNX files, one each, with the weights in it: onnx/encode_image.onnx, ...

jax2onnx writes them, any runtime reads them; inputs and outputs have the names and shapes of
`inference.programs` with a batch of any size, and normalisation of pixels is inside.
"""

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tipr_jax.inference import programs
from tipr_jax.inference.model import TrainedModel
from tipr_jax.models import get_method
from tipr_jax.precision import ComputePolicy

FOLDER = "onnx"
ROWS = "rows"  # name of the dimension that is free


def write(directory: Path, model: TrainedModel) -> None:
    """Writes `FOLDER` with all programs in float32.

    Raises:
      ValueError: the extra `onnx` is not installed.
    """
    jax2onnx = _package("jax2onnx")
    method, how = get_method(model.method), ComputePolicy()
    params = jax.tree.map(np.asarray, model.params)
    _, shapes = programs.input_shapes(method, model.config, how, 1)
    (directory / FOLDER).mkdir()
    made = programs.functions(method, model.config, how)
    with _quiet():
        for name, function in tqdm(made.items(), desc="ONNX", leave=False, disable=None):
            inputs = programs.inputs_of(name)
            jax2onnx.to_onnx(
                functools.partial(function, params),
                [_free_rows(shapes[i]) for i in inputs],
                model_name=name,
                return_mode="file",
                output_path=str(directory / FOLDER / f"{name}.onnx"),
                input_names=inputs,
                output_names=programs.outputs_of(name),
            )


def _free_rows(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    dimensions: Any = (ROWS, *shape.shape[1:])  # jax2onnx takes names of dimensions
    return jax.ShapeDtypeStruct(dimensions, shape.dtype)


def found(directory: Path) -> dict[str, Path]:
    """The ONNX files of an exported directory by the names of their programs; {} for none."""
    return {path.stem: path for path in sorted((directory / FOLDER).glob("*.onnx"))}


def run(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of an ONNX file on the CPU.

    Raises:
      ValueError: the extra `onnx` is not installed; a damaged file.
    """
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # it warns of constants that jax2onnx leaves behind
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)
    except Exception as error:  # the runtime's own types, of which none is public
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be run ({reason}); export the model again") from None


def check_installed() -> None:
    """Raises ValueError unless the extra `onnx` is installed."""
    for name in ("jax2onnx", "onnxruntime"):
        _package(name)


def _package(name: str) -> Any:
    try:
        with _quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"ONNX needs {name} ({error}); install it: pip install 'tipr_jax[onnx]'"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what jax2onnx logs and warns of: its plugins for JAX and Flax that are not used."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
