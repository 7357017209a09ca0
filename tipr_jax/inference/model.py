"""A trained model, ready to embed photos and sentences: read from a run or a model directory."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from tipr_jax import checkpoints, run_files
from tipr_jax.inference.encoders import Encoders, padded
from tipr_jax.inference.rerank import Reranker
from tipr_jax.languages import ALIASES
from tipr_jax.metrics.rerank import match_score
from tipr_jax.metrics.retrieval import l2_normalise
from tipr_jax.models import get_method
from tipr_jax.models.method import ModelConfig, Params
from tipr_jax.preprocess import image as preprocess
from tipr_jax.sharding import batch_shards, put_params
from tipr_jax.text import TOKENIZER_DIR, Tokenizer, load_tokenizer

ROWS = 64  # rows of a call of an encoder; the last ones are padded, so that one program serves all

ImageSource = str | bytes | np.ndarray  # path, encoded bytes, or uint8 RGB [H,W,3]


class TrainedModel:
    """A text tower and an image tower on all devices of this machine.

    Args:
      method: name of the method, see `models.get_method`.
      model_config: the method's config; training heads are ignored.
      params: nested dict of arrays with at least the towers.
      tokenizer: sentences -> ids.
      test_resize: filter with which photos come to the model's size.
    """

    def __init__(
        self,
        method: str,
        model_config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        *,
        test_resize: str = "bilinear",
    ):
        self.method, self.tokenizer, self.test_resize = method, tokenizer, test_resize
        self.encoders = Encoders.on_this_machine(get_method(method), model_config)
        self.config = self.encoders.config
        shards = batch_shards(self.encoders.mesh, self.encoders.rules)
        self._rows = -(-ROWS // shards) * shards
        self.params = put_params(self.encoders.select(params), self.encoders.shardings)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages it was trained on, the default first; () for a model of one."""
        return self.config.languages

    def embed_images(self, sources: Sequence[ImageSource]) -> np.ndarray:
        """Photos -> unit features float32 [N,C].

        Raises:
          ValueError, FileNotFoundError: an image that cannot be read, by name.
        """
        return l2_normalise(
            self._in_chunks(self.encoders.encode_image, self._pixels, sources, "photo")
        )

    def _pixels(self, sources: Sequence[ImageSource]) -> np.ndarray:
        def one(source: ImageSource) -> np.ndarray:
            size = self.config.image_size
            image = (
                source if isinstance(source, np.ndarray) else preprocess.decode(source, size=size)
            )
            return preprocess.resize(image, size, self.test_resize)

        return np.stack([*map(one, sources)])

    def embed_texts(self, texts: Sequence[str], language: str = "") -> np.ndarray:
        """Sentences -> unit features float32 [N,C]; control tokens typed in a sentence are text.

        language: of the sentences, one of `languages`; "" for the first.

        Raises:
          ValueError: another language.
        """
        index = self.language_index(language)
        encode = lambda params, text_ids: self.encoders.encode_text(params, text_ids, index)  # noqa: E731
        return l2_normalise(self._in_chunks(encode, self._text_ids, texts, "text"))

    def _text_ids(self, texts: Sequence[str]) -> np.ndarray:
        return self.tokenizer(texts, self.config.text_length)

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
        if not self.config.can_match:
            raise ValueError(
                f"this model of {self.method} has no matching head; search without re-ranking"
            )

    def match(self, sources: Sequence[ImageSource], sentence: str) -> np.ndarray:
        """How well each image fits the sentence, by the matching head: logits float32 [N].

        Raises:
          ValueError: a model without that head; an image that cannot be read.
        """
        self.check_can_match()
        encode = lambda params, image: self.encoders.image_tokens(params, image)[1]  # noqa: E731
        tokens = self._in_chunks(encode, self._pixels, sources, "photo")
        text = {"text_ids": padded(self._text_ids([sentence]), self._rows)}
        candidates = np.arange(len(sources), dtype=np.int32)[None]
        return match_score(self._reranker(self.params, [text], tokens, candidates))[0]

    @functools.cached_property
    def _reranker(self) -> Reranker:
        return Reranker(self.encoders, text_rows=self._rows, pairs=self._rows)

    def _in_chunks(
        self,
        encode: Callable[[Params, jax.Array], jax.Array],
        prepare: Callable[[Sequence], np.ndarray],
        items: Sequence,
        unit: str,
    ) -> np.ndarray:
        """encode(prepare(items)), so many rows at a time."""
        if not len(items):
            raise ValueError(f"no {unit}s to embed")
        out = []
        starts = range(0, len(items), self._rows)
        for start in tqdm(starts, desc=f"embed {unit}s", leave=False, disable=None):
            rows = prepare(items[start : start + self._rows])
            batch = self.encoders.put_rows({"rows": padded(rows, self._rows)})["rows"]
            out.append(np.asarray(encode(self.params, batch))[: len(rows)])
        return np.concatenate(out)


def load(directory: str | Path, language: str = "") -> TrainedModel:
    """The model of a run directory (its best checkpoint) or of a model directory.

    language: of a run in several languages, take the checkpoint that is best in this one.

    Raises:
      ValueError: if `directory` is neither.
    """
    method, model_config, _, params, tokenizer = read(Path(directory), language)
    resize = run_files.test_resize(directory)
    return TrainedModel(method, model_config, params, tokenizer, test_resize=resize)


def read(directory: Path, language: str = "") -> tuple[str, ModelConfig, int, Params, Tokenizer]:
    """(method, model config, step, parameters, tokenizer) of a run or model directory."""
    name, fields = run_files.model_fields(directory)
    step, params = checkpoints.load_params(directory, language)
    method = get_method(name)
    model_config = method.config.from_stored(fields, params)
    tokenizer = load_tokenizer(method.tokenizer, directory / TOKENIZER_DIR)
    return name, model_config, step, params, tokenizer
