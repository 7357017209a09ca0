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
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from tipr_jax import checkpoints
from tipr_jax.languages import ALIASES
from tipr_jax.metrics.rerank import match_score
from tipr_jax.metrics.retrieval import l2_normalise
from tipr_jax.models import MODELS
from tipr_jax.models.bi_irra import text_mask
from tipr_jax.precision import policy
from tipr_jax.preprocess import image as preprocess
from tipr_jax.text import TOKENIZER_DIR, Tokenizer, load_tokenizer, save_tokenizer
from tipr_jax.train_state import define_model, select_params

CHUNK = 64  # rows per call of an encoder; the last chunk is padded, so that one program serves all


class TrainedModel:
    """A text tower and an image tower, ready to embed files and sentences on this machine.

    Args:
      method: name in `MODELS`.
      model_config: the method's Config; training heads are ignored.
      params: nested dict of arrays with at least the two towers.
      tokenizer: sentences -> ids.
      test_resize: filter with which photos come to the model's size.
    """

    def __init__(
        self,
        method: str,
        model_config: Any,
        params: Any,
        tokenizer: Tokenizer,
        *,
        test_resize: str = "bilinear",
    ):
        self.method, self.config = method, model_config.towers()
        self.tokenizer, self.test_resize = tokenizer, test_resize
        graphdef, abstract, _ = define_model(MODELS[method], self.config, policy())
        towers = nnx.to_pure_dict(abstract)
        self.params = jax.device_put(select_params(params, towers))
        self._graphdef = graphdef

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of the sentences it understands, the default first; () for a model of one."""
        return getattr(self.config, "languages", ())

    @functools.cached_property
    def _encode_image(self) -> Callable:
        return jax.jit(lambda p, x: nnx.merge(self._graphdef, p).encode_image(x))

    @functools.cached_property
    def _encode_text(self) -> Callable:
        def encode(params: Any, text_ids: jax.Array, language: int) -> jax.Array:
            model = nnx.merge(self._graphdef, params)
            return model.encode_text(text_ids, *((language,) if language else ()))

        return jax.jit(encode, static_argnums=2)

    @functools.cached_property
    def _match(self) -> Callable:
        def match(params: Any, image: jax.Array, text_ids: jax.Array) -> jax.Array:
            model = nnx.merge(self._graphdef, params)
            text, mask = model.text_tokens(text_ids), text_mask(text_ids)
            text, mask = (jnp.broadcast_to(x, (len(image), *x.shape[1:])) for x in (text, mask))
            return model.match(model.image_tokens(image), text, mask)

        return jax.jit(match)

    def embed_images(self, sources: Sequence[str | bytes | np.ndarray]) -> np.ndarray:
        """Files (paths, encoded bytes or uint8 RGB arrays) -> unit features float32 [N,C].

        Raises:
          ValueError, FileNotFoundError: an image that cannot be read, by name.
        """
        encode = functools.partial(self._encode_image, self.params)
        return l2_normalise(_in_chunks(encode, self._pixels, sources, "photo"))

    def _pixels(self, sources: Sequence[str | bytes | np.ndarray]) -> np.ndarray:
        def one(source: str | bytes | np.ndarray) -> np.ndarray:
            image = source if isinstance(source, np.ndarray) else preprocess.decode(source)
            return preprocess.resize(image, self.config.image_size, self.test_resize)

        return np.stack([*map(one, sources)])

    def embed_texts(self, texts: Sequence[str], language: str = "") -> np.ndarray:
        """Sentences -> unit features float32 [N,C]; control tokens typed in a sentence are text.

        language: of the sentences, one of `languages`; "" for the first.

        Raises:
          ValueError: another language.
        """
        index = self.language_index(language)
        encode = lambda text_ids: self._encode_text(self.params, text_ids, index)  # noqa: E731
        return l2_normalise(
            _in_chunks(
                encode, lambda part: self.tokenizer(part, self.config.text_length), texts, "text"
            )
        )

    def language_index(self, language: str) -> int:
        """The place of a language in `languages`, 0 for "". Raises ValueError for another one."""
        if not language:
            return 0
        language = ALIASES.get(language, language)
        if language not in self.languages:
            known = ", ".join(self.languages) or "the one language it was trained on, unnamed"
            raise ValueError(f"language {language!r} is not one of the model's: {known}")
        return self.languages.index(language)

    def check_can_match(self) -> None:
        """Raises ValueError for a model without a matching head."""
        if "itm_head" not in self.params:
            raise ValueError(
                f"this model of {self.method} has no matching head; search without re-ranking"
            )

    def match(self, sources: Sequence[str | bytes | np.ndarray], sentence: str) -> np.ndarray:
        """How well each image fits the sentence, by the matching head: logits float32 [N].

        Raises:
          ValueError: a model without that head; an image that cannot be read.
        """
        self.check_can_match()
        text_ids = self.tokenizer([sentence], self.config.text_length)
        score = lambda image: self._match(self.params, image, text_ids)  # noqa: E731
        return match_score(_in_chunks(score, self._pixels, sources, "photo"))


def _in_chunks(encode: Callable, prepare: Callable, items: Sequence, unit: str) -> np.ndarray:
    """encode(prepare(items)) in padded chunks."""
    if not len(items):
        raise ValueError(f"no {unit}s to embed")
    out = []
    for start in tqdm(
        range(0, len(items), CHUNK), desc=f"embed {unit}s", leave=False, disable=None
    ):
        rows = prepare(items[start : start + CHUNK])
        padded = np.concatenate([rows, np.zeros((CHUNK - len(rows), *rows.shape[1:]), rows.dtype)])
        out.append(np.asarray(encode(padded))[: len(rows)])
    return np.concatenate(out)


def load(directory: str | Path) -> TrainedModel:
    """The model of a run directory (its best checkpoint) or of a model directory.

    Raises:
      ValueError: if `directory` is neither.
    """
    method, model_config, _, params, tokenizer = _read(Path(directory))
    resize = checkpoints.test_resize(directory)
    return TrainedModel(method, model_config, params, tokenizer, test_resize=resize)


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
    config = {
        "method": method,
        "model": dataclasses.asdict(model_config),
        "test_resize": checkpoints.test_resize(workdir),
        "step": step,
    }
    checkpoints.save_params(output, params, config)
    save_tokenizer(tokenizer, output)
    return step
