"""Reads and writes tensor files: .safetensors, and .pt/.pth through torch (imported lazily)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tipr_jax.pretrained.key_table import StateDict

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)


def read_state_dict(path: str | Path) -> StateDict:
    """{name: array} of a tensor file; half precisions become float32.

    A .pt/.pth may be a TorchScript archive (OpenAI's CLIP), a state dict, or a dictionary with the
    state dict under "model" (released IRRA) or "state_dict". Nothing else in it is unpickled.

    Raises:
      FileNotFoundError: no such file.
      ValueError: unknown suffix, or not a tensor file.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return {key: value.float().numpy() for key, value in _read_torch(path).items()}


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} as .safetensors, or as {"model": state_dict} for .pt/.pth.

    The file appears when it is complete.

    Raises:
      ValueError: unknown suffix, or the file exists.
    """
    path = Path(path)
    _check_suffix(path)
    if path.exists():
        raise ValueError(f"{path} exists; choose another output file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            # save_file writes the memory of an array, whatever its strides.
            arrays = {key: np.asarray(value, order="C") for key, value in state_dict.items()}
            save_file(arrays, partial)
        else:
            torch = _import_torch()
            torch.save({"model": {k: torch.tensor(v) for k, v in state_dict.items()}}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown file type, expected one of {', '.join(SUFFIXES)}")


def _read_safetensors(path: Path) -> StateDict:
    import ml_dtypes  # noqa: F401  makes numpy know bfloat16, which safetensors asks it for
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {key: value.astype(np.float32) for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def _read_torch(path: Path) -> dict[str, Any]:
    """{name: torch.Tensor on the CPU}."""
    torch = _import_torch()
    try:
        if _is_torchscript(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch errors of many types
        reason = str(error).strip().split("\n")[0][:150]
        raise ValueError(f"{path}: not a readable torch checkpoint ({reason})") from None
    for name in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: holds no state dict (found {type(content).__name__})")
    if stray := [k for k, v in content.items() if not isinstance(v, torch.Tensor)]:
        raise ValueError(f"{path}: holds no state dict, {stray[0]!r} is not a tensor")
    return content


def _is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip with a constants.pkl inside; torch.save has none."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError(
            "reading or writing .pt/.pth files needs PyTorch; install it with "
            "`pip install 'tipr_jax[convert]'`, or use a .safetensors file"
        ) from None
    return torch
