"""A model from its exported directory, without Flax, Orbax and the model's code.

It starts in a fraction of the time, so the first sentence of a new process is answered at once.
`inference.programs` says what the programs compute, `inference.artifact` writes the directory.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from safetensors import SafetensorError, safe_open

from tipr_jax import __version__
from tipr_jax.inference.embedder import ROWS, Embedder, padded
from tipr_jax.paths import cache_directory, no_such_path
from tipr_jax.text import TOKENIZER_DIR, load_tokenizer

CONFIG, WEIGHTS, PROGRAMS = "config.json", "model.safetensors", "programs"
FACTS = "exported"  # what this file reads of config.json
SUFFIX = ".jax_export"


def is_exported(directory: str | Path) -> bool:
    """True for a directory with programs that `ExportedModel` runs."""
    return (Path(directory) / PROGRAMS).is_dir()


class ExportedModel(Embedder):
    """The model of an exported directory, on the first device of this process.

    Raises:
      ValueError: no such directory, a damaged one, or one for other kinds of devices.
    """

    def __init__(self, directory: str | Path):
        path = Path(directory)
        if not is_exported(path):
            raise ValueError(
                f"{no_such_path(path, 'directory')}"
                if not path.exists()
                else f"{path} is no exported model (no {PROGRAMS}/ in it); make one with "
                "`python -m tipr_jax.main ... --mode=export`"
            )
        config = _read(path / CONFIG)
        facts = config[FACTS]
        self.directory, self.method = str(directory), config["method"]
        self.test_resize = config["test_resize"]
        self.image_size = tuple(facts["image_size"])
        self.text_length, self.feature_size = facts["text_length"], facts["feature_size"]
        self.languages = tuple(facts["languages"])
        self.caption_languages = tuple(facts["caption_languages"])
        self.can_match, self.fingerprint = facts["can_match"], facts["fingerprint"]
        self.tokenizer = load_tokenizer(facts["tokenizer"], path / TOKENIZER_DIR)
        self.programs: dict[str, list[str]] = facts["programs"]
        self._arrays: dict[str, jax.Array] = {}

    def encode_image(self, pixels: np.ndarray) -> jax.Array:
        return self.run("encode_image", pixels)

    def encode_text(self, text_ids: np.ndarray, language: int) -> jax.Array:
        return self.run(text_program(self.languages, language), text_ids)

    def image_tokens(self, pixels: np.ndarray) -> jax.Array:
        return self.run("image_tokens", pixels)

    def match_tokens(self, image_tokens: np.ndarray, text_ids: np.ndarray) -> np.ndarray:
        text, mask = self.run("text_tokens", text_ids)
        out = []
        for start in range(0, len(image_tokens), ROWS):
            image = image_tokens[start : start + ROWS]
            pair = (np.repeat(np.asarray(x), ROWS, axis=0) for x in (text, mask))
            logits = self.run("match", padded(image, ROWS), *pair)
            out.append(np.asarray(logits)[: len(image), 1])
        return np.concatenate(out)

    def run(self, name: str, *inputs: Any) -> Any:
        """What a program gives for its inputs, see `inference.programs`."""
        return self._compiled(name)(self._parameters(name), *inputs)

    @functools.cache  # noqa: B019  # a process has one model or two
    def _compiled(self, name: str) -> Any:
        path = Path(self.directory) / PROGRAMS / (name + SUFFIX)
        try:
            program = jax.export.deserialize(bytearray(path.read_bytes()))
        except Exception as error:  # a damaged flatbuffer raises many types
            raise ValueError(f"{path} cannot be read ({error}); export the model again") from error
        if jax.default_backend() not in (*program.platforms, "gpu"):
            raise ValueError(
                f"{self.directory} is exported for {', '.join(program.platforms)}, this is "
                f"{jax.default_backend()}; set JAX_PLATFORMS, or export it again here"
            )
        return jax.jit(program.call)

    def _parameters(self, name: str) -> dict[str, jax.Array]:
        """What a program takes, read when it is first wanted."""
        wanted = self.programs[name]
        missing = [path for path in wanted if path not in self._arrays]
        if missing:
            weights = Path(self.directory) / WEIGHTS
            try:
                with safe_open(str(weights), "numpy") as file:
                    found = {path: file.get_tensor(path) for path in missing}
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{weights} cannot be read ({error}); export the model again"
                ) from error
            self._arrays |= jax.device_put(found)
        return {path: self._arrays[path] for path in wanted}


def text_program(languages: Sequence[str], language: int) -> str:
    """Name of the program that encodes texts of this language, an index into `languages`."""
    return f"encode_text_{languages[language]}" if language else "encode_text"


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
        _ = config[FACTS]["programs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the config of an exported model ({error!r})") from None
    return config


def kept_at(fingerprint: str) -> Path:
    """Where this machine keeps the programs of a model, see `artifact.keep`.

    They are of this version of the code, of JAX, and of the devices of this process.
    """
    digest = hashlib.sha256()
    for room in ("inference", "models", "nn"):
        for file in sorted(Path(__file__).parents[1].glob(f"{room}/**/*.py")):
            digest.update(f"{file} {file.stat().st_mtime_ns}".encode())
    facts = (fingerprint, __version__, jax.__version__, jax.devices()[0].device_kind)
    digest.update(repr(facts).encode())
    return cache_directory() / "models" / digest.hexdigest()[:32]


def kept(fingerprint: str) -> "ExportedModel | None":
    """The model with this fingerprint, if this machine keeps its programs."""
    place = kept_at(fingerprint)
    return ExportedModel(place) if is_exported(place) else None
