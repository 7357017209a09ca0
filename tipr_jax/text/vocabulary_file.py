"""How a tokenizer keeps its vocabulary in a directory."""

import os
from pathlib import Path


def write_vocabulary(path: Path, content: bytes) -> None:
    """Writes a vocabulary file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
