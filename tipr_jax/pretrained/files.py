"""Reads and writes tensor files: safetensors, and torch's (PyTorch is imported lazily).

What a file is follows from its content, not from its name.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tipr_jax.pretrained import torch_pickle
from tipr_jax.pretrained.key_table import StateDict, without_prefix

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
PIECE = re.compile(r"-\d+-of-(\d+)\.")  # model-00001-of-00002.safetensors
# What may stand beside tensors in a state dict and is left out.
SETTINGS = (bool, int, float, str, np.generic, torch_pickle.Foreign, type(None))


def read_state_dict(path: str | Path) -> StateDict:
    """{name: array} of a tensor file, or of the folder of a model; half precisions become float32.

    A .pt/.pth may be a TorchScript archive (OpenAI's CLIP), a state dict, or a dictionary with the
    state dict under "model" (released IRRA) or "state_dict". Numbers and settings beside the
    tensors are left out; nothing in the file is run (`torch_pickle`). What wrappers put in front of
    every name is taken off (`key_table.PREFIXES`).

    A folder, as on Hugging Face, holds one tensor file, or several with an index.

    Raises:
      FileNotFoundError: no such file, or a folder without tensor files.
      ValueError: not a tensor file, or one of several pieces; values that are not finite, or all 0.
    """
    path = Path(path)
    state_dict = without_prefix(_read_folder(path) if path.is_dir() else _read_file(path))
    for name, value in state_dict.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinite values; fetch the file again")
    if not any(value.any() for value in state_dict.values()):
        raise ValueError(f"{path}: every tensor is zero; fetch the file again")
    return state_dict


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


def _read_file(path: Path) -> StateDict:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if (piece := PIECE.search(path.name)) and int(piece[1]) > 1:
        raise ValueError(
            f"{path}: one of {int(piece[1])} pieces; give the folder, whose index names all of them"
        )
    return _read_tensors(path)


def _read_tensors(path: Path) -> StateDict:
    """The tensors of one file, which may be a piece of a model."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path}: a pointer of Git LFS instead of the weights; run `git lfs pull` in its folder"
        )
    if head[8:9] == b"{":  # after the length of the header
        return _read_safetensors(path)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):  # a zip, or a pickle
        return {key: value.float().numpy() for key, value in _read_torch(path).items()}
    raise ValueError(f"{path}: not a readable tensor file, expected safetensors or a torch file")


def _read_folder(folder: Path) -> StateDict:
    """The tensors of a model's folder: of the only tensor file, or of all that an index names."""
    for index in sorted(folder.glob("*.index.json")):
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{folder}: {index.name} names {missing[0]}, which is missing")
        return {k: x for name in names for k, x in _read_tensors(folder / name).items()}
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    # Of the same weights in both forms, safetensors needs no PyTorch.
    found = [p for p in found if p.suffix.lower() == ".safetensors"] or found
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise FileNotFoundError(f"{folder}: expected one tensor file in it, found {names}")
    return _read_file(found[0])


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
        # An open file, because torch.load goes by the suffix of a path.
        with open(path, "rb") as file:
            content = torch.load(
                file, map_location="cpu", weights_only=False, pickle_module=torch_pickle
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
