"""A trained model, ready to embed photos and sentences: read from a run or a model directory."""

import functools
import hashlib
from pathlib import Path

import jax
import numpy as np

from tipr_jax import checkpoints, run_files
from tipr_jax.inference.embedder import ROWS, Embedder, call_rows, padded
from tipr_jax.inference.encoders import Encoders
from tipr_jax.inference.rerank import Reranker
from tipr_jax.metrics.rerank import match_score
from tipr_jax.models import get_method
from tipr_jax.models.method import ModelConfig, Params
from tipr_jax.paths import place
from tipr_jax.sharding import batch_shards
from tipr_jax.text import TOKENIZER_DIR, Tokenizer, load_tokenizer


class TrainedModel(Embedder):
    """A text tower and an image tower on all devices of this machine.

    Args:
      method: name of the method, see `models.get_method`.
      model_config: the method's config; training heads are ignored.
      params: nested dict of arrays with at least the towers.
      tokenizer: sentences -> ids.
      test_resize: filter with which photos come to the model's size.
      caption_languages: what it was trained on, if that is known.
      directory: the run or model directory that it was read from.
    """

    def __init__(
        self,
        method: str,
        model_config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        *,
        test_resize: str = "bilinear",
        caption_languages: tuple[str, ...] = (),
        directory: str = "",
    ):
        self.caption_languages, self.directory = caption_languages, directory
        self.method, self.tokenizer, self.test_resize = method, tokenizer, test_resize
        self.encoders = Encoders.on_this_machine(get_method(method), model_config)
        self.config = self.encoders.config
        self.image_size, self.text_length = self.config.image_size, self.config.text_length
        self.languages, self.can_match = self.config.languages, self.config.can_match
        self.shards = batch_shards(self.encoders.mesh, self.encoders.rules)
        self._variables = self.encoders.put(params)

    @property
    def params(self) -> Params:
        """The model's variables without training heads, a nested dict of arrays."""
        return self.encoders.whole_params(self._variables)

    @functools.cached_property
    def feature_size(self) -> int:
        image = jax.ShapeDtypeStruct((self._rows, *self.image_size, 3), np.uint8)
        return jax.eval_shape(self.encoders.encode_image, self._variables, image).shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        facts = (self.method, self.config, self.test_resize, type(self.tokenizer).__name__)
        digest.update(repr(facts).encode())
        for path, leaf in jax.tree.leaves_with_path(self.params):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def encode_image(self, pixels: np.ndarray) -> jax.Array:
        return self.encoders.encode_image(self._variables, self._put(pixels))

    def encode_text(self, text_ids: np.ndarray, language: int) -> jax.Array:
        return self.encoders.encode_text(self._variables, self._put(text_ids), language)

    def image_tokens(self, pixels: np.ndarray) -> jax.Array:
        return self.encoders.image_tokens(self._variables, self._put(pixels))[1]

    def match_tokens(self, image_tokens: np.ndarray, text_ids: np.ndarray) -> np.ndarray:
        text = {"text_ids": padded(text_ids, self._rows)}
        candidates = np.arange(len(image_tokens), dtype=np.int32)[None]
        return match_score(self._reranker(self._variables, [text], image_tokens, candidates))[0]

    @property
    def _rows(self) -> int:
        return call_rows(ROWS, self.shards)

    def _put(self, rows: np.ndarray) -> jax.Array:
        return self.encoders.put_rows({"rows": rows})["rows"]

    @functools.cached_property
    def _reranker(self) -> Reranker:
        return Reranker(self.encoders, text_rows=self._rows, pairs=self._rows)


def load(directory: str | Path, language: str = "") -> TrainedModel:
    """The model of a run directory (its best checkpoint) or of a model directory.

    language: of a run in several languages, take the checkpoint that is best in this one.

    Raises:
      ValueError: if `directory` is neither.
    """
    method, model_config, _, params, tokenizer = read(place(directory), language)
    resize = run_files.test_resize(directory)
    languages = run_files.caption_languages(directory)
    return TrainedModel(
        method,
        model_config,
        params,
        tokenizer,
        test_resize=resize,
        caption_languages=languages,
        directory=str(directory),
    )


def read(directory: Path, language: str = "") -> tuple[str, ModelConfig, int, Params, Tokenizer]:
    """(method, model config, step, parameters, tokenizer) of a run or model directory."""
    name, fields = run_files.model_fields(directory)
    step, params = checkpoints.load_params(directory, language)
    method = get_method(name)
    model_config = method.config.from_stored(fields, params)
    tokenizer = load_tokenizer(method.tokenizer, directory / TOKENIZER_DIR)
    return name, model_config, step, params, tokenizer
