"""Models from a folder of this machine, as `transformers` (extra `local`) saves them.

Nothing is downloaded, and no code from the folder is run.
"""

import hashlib
import importlib
from pathlib import Path
from typing import Any


def checked(folder: Path | None, option: str) -> Path:
    """The folder. option: the config field that names it. Raises ValueError if it is no model's."""
    if folder is None or not (folder / "config.json").is_file():
        raise ValueError(
            f"{option}={folder or ''}: expected the folder of a Hugging Face model, with a "
            "config.json; fetch one with hf download OWNER/NAME --local-dir FOLDER"
        )
    return folder


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the folder's files, other than hidden ones and *.md.

    Reads all weights, at about a gigabyte per second.
    """
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{path.name}\0{content}\n".encode())
    return whole.hexdigest()


def load(folder: Path, kind: str, device: str, option: str) -> tuple[Any, Any]:
    """(tokenizer, model) for inference.

    kind: a class of `transformers`, AutoModelForSeq2SeqLM for example.
    device: of PyTorch, "cuda:1" for example; "" takes a GPU where there is one.

    Raises:
      ValueError: the extra is missing, or the folder holds no such model, or not all of it.
    """
    transformers, torch = _packages()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    only = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **only)
        model, found = getattr(transformers, kind).from_pretrained(
            folder, output_loading_info=True, **only
        )
        # Sentence vectors are made without the pooler, which many files lack.
        missing = [name for name in found["missing_keys"] if "pooler" not in name]
        if missing:
            raise ValueError(f"the weights lack {len(missing)} arrays, as {sorted(missing)[0]}")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, model.to(device).eval()
    except ImportError as error:
        raise ValueError(
            f"transformers does not work here ({_first_line(error)}); torch and torchvision must "
            "be of one release and one kind, CPU or CUDA: install both again, or remove torchvision"
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{option}={folder}: cannot be loaded with {kind} ({_first_line(error)}); give the "
            "folder of another model, or fetch it again"
        ) from None


def _packages() -> tuple[Any, Any]:
    try:
        return importlib.import_module("transformers"), importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a model from a folder needs the package {error.name}; pip install 'tipr_jax[local]'"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
