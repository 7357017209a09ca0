"""Reads and writes tensor files: .safetensors, and .pt/.pth through torch (imported lazily)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tipr_jax.pretrained import torch_pickle
from tipr_jax.pretrained.key_table import StateDict

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
# What may stand beside tensors in a state dict and is left out.
SETTINGS = (bool, int, float, str, np.generic, torch_pickle.Foreign, type(None))


def read_state_dict(path: str | Path) -> StateDict:
    """{name: array} of a tensor file; half precisions become float32.

    A .pt/.pth may be a TorchScript archive (OpenAI's CLIP), a state dict, or a dictionary with the
    state dict under "model" (released IRRA) or "state_dict". Numbers and settings beside the
    tensors are left out; nothing in the file is run (`torch_pickle`).

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
        # Not `weights_only`: it refuses every file with a number or settings beside the tensors.
        content = torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=torch_pickle
        )
    except Exception as error:  # zip, pickle and torch errors of many types
        reason = str(error).strip().split("\n")[0][:150]
        raise ValueError(f"{path}: not a readable torch checkpoint ({reason})") from None
    for name in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if isinstance(content, torch_pickle.Foreign):
        raise ValueError(
            f"{path}: holds an object of {content.name}, not a state dict; load it where its code "
            "is and save again with torch.save(model.state_dict(), ...)"
        )
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: holds no state dict (found {type(content).__name__})")
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    beside = {key: value for key, value in content.items() if key not in tensors}
    if stray := [key for key, value in beside.items() if not isinstance(value, SETTINGS)]:
        raise ValueError(f"{path}: holds no state dict, {stray[0]!r} is not a tensor")
    if not tensors:
        raise ValueError(f"{path}: holds no state dict, no tensor is in it")
    return {key: value.detach() for key, value in tensors.items()}


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
