"""Trained models as directories: write one from a run, load one to embed photos and sentences.

A model directory holds `params/` (Orbax) and `config.json` with the method and its model fields.
`python -m tipr_jax.convert` writes the same form from released weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from tipr_jax import checkpoints
from tipr_jax.metrics.retrieval import unit_rows
from tipr_jax.models import MODELS
from tipr_jax.precision import policy
from tipr_jax.preprocess import image as preprocess
from tipr_jax.text import TOKENIZER_DIR, Tokenizer, load_tokenizer, save_tokenizer
from tipr_jax.train_state import define_model

CHUNK = 64  # rows per call of an encoder; the last chunk is padded, so that one program serves all


class TrainedModel:
    """A text tower and an image tower, ready to embed files and sentences on this machine.

    Args:
      method: name in `MODELS`.
      model_config: the method's Config; training heads are ignored.
      params: nested dict of arrays with at least the two towers.
      tokenizer: sentences -> ids.
    """

    def __init__(self, method: str, model_config: Any, params: Any, tokenizer: Tokenizer):
        self.method, self.config = method, model_config.towers()
        self.tokenizer = tokenizer
        graphdef, abstract, _ = define_model(MODELS[method], self.config, policy())
        towers = nnx.to_pure_dict(abstract)
        self.params = jax.device_put({name: params[name] for name in towers})
        self._graphdef = graphdef

    @functools.cached_property
    def _encoders(self) -> tuple[Callable, Callable]:
        def encode(method: str) -> Callable:
            return jax.jit(lambda p, x: getattr(nnx.merge(self._graphdef, p), method)(x))

        return encode("encode_image"), encode("encode_text")

    def embed_images(self, sources: Sequence[str | bytes | np.ndarray]) -> np.ndarray:
        """Files (paths, encoded bytes or uint8 RGB arrays) -> unit features float32 [N,C].

        Raises:
          ValueError, FileNotFoundError: an image that cannot be read, by name.
        """

        def pixels(source: str | bytes | np.ndarray) -> np.ndarray:
            image = source if isinstance(source, np.ndarray) else preprocess.decode(source)
            return preprocess.resize(image, self.config.image_size)

        encode = functools.partial(self._encoders[0], self.params)
        return _in_chunks(encode, lambda part: np.stack([*map(pixels, part)]), sources, "photo")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Sentences -> unit features float32 [N,C]; control tokens typed in a sentence are text."""
        encode = functools.partial(self._encoders[1], self.params)
        return _in_chunks(
            encode, lambda part: self.tokenizer(part, self.config.text_length), texts, "text"
        )


def _in_chunks(encode: Callable, prepare: Callable, items: Sequence, unit: str) -> np.ndarray:
    """encode(prepare(items)) in padded chunks, rows normalised."""
    if not len(items):
        raise ValueError(f"no {unit}s to embed")
    out = []
    for start in tqdm(
        range(0, len(items), CHUNK), desc=f"embed {unit}s", leave=False, disable=None
    ):
        rows = prepare(items[start : start + CHUNK])
        padded = np.concatenate([rows, np.zeros((CHUNK - len(rows), *rows.shape[1:]), rows.dtype)])
        out.append(np.asarray(encode(padded))[: len(rows)])
    features = np.concatenate(out)
    return unit_rows(features)


def load(directory: str | Path) -> TrainedModel:
    """The model of a run directory (its best checkpoint) or of a model directory.

    Raises:
      ValueError: if `directory` is neither.
    """
    method, model_config, _, params, tokenizer = _read(Path(directory))
    return TrainedModel(method, model_config, params, tokenizer)


def _read(directory: Path) -> tuple[str, Any, int, Any, Tokenizer]:
    """(method, model config, step, parameters, tokenizer) of a run or model directory."""
    method, fields = checkpoints.model_fields(directory)
    step, params = checkpoints.load_params(directory)
    if "classifier" in params:  # a run's config leaves it to the data
        fields["num_persons"] = params["classifier"]["bias"].shape[0]
    tokenizer = load_tokenizer(MODELS[method].tokenizer, directory / TOKENIZER_DIR)
    return method, MODELS[method].config(**fields), step, params, tokenizer


def export_run(workdir: str | Path, output: str | Path) -> int:
    """Writes a run's best parameters as a model directory; returns their step.

    Raises:
      ValueError: no checkpoint in `workdir`, or `output` is not empty.
    """
    if not checkpoints.is_run(workdir):
        raise ValueError(
            f"{workdir} has no checkpoints to export; train first, or pass a run as --workdir"
        )
    method, model_config, step, params, tokenizer = _read(Path(workdir))
    config = {"method": method, "model": dataclasses.asdict(model_config), "step": step}
    checkpoints.save_params(output, params, config)
    save_tokenizer(tokenizer, output)
    return step
