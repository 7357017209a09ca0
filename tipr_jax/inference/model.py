"""A trained model, ready to embed photos and sentences: read from a run or a model directory."""

import functools
import hashlib
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
from tipr_jax.text.language import NAMES, guess
from tipr_jax.text.reading import unread

# Rows of a call of an encoder. Fewer are padded to the next of these sizes, so that few programs
# serve all and one sentence does not pay for 64.
SIZES = (1, 4, 16, 64)
ROWS = SIZES[-1]

ImageSource = str | bytes | np.ndarray  # path, encoded bytes, or uint8: see `from_array`


class TrainedModel:
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
        self._shards = batch_shards(self.encoders.mesh, self.encoders.rules)
        self._rows = -(-ROWS // self._shards) * self._shards
        self.params = put_params(self.encoders.select(params), self.encoders.shardings)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages it was trained on, the default first; () for a model of one."""
        return self.config.languages

    @functools.cached_property
    def feature_size(self) -> int:
        """Numbers in a feature."""
        size = self.config.image_size
        image = jax.ShapeDtypeStruct((self._rows, *size, 3), np.uint8)
        return jax.eval_shape(self.encoders.encode_image, self.params, image).shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the features: weights, config, preprocessing and tokenizer.

        Two models with the same fingerprint give vectors that can be compared.
        """
        digest = hashlib.sha256()
        facts = (self.method, self.config, self.test_resize, type(self.tokenizer).__name__)
        digest.update(repr(facts).encode())
        for path, leaf in jax.tree.leaves_with_path(self.params):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def embed_images(self, sources: Sequence[ImageSource]) -> np.ndarray:
        """Photos -> unit features float32 [N,C].

        Raises:
          ValueError, FileNotFoundError: an image that cannot be read, by name; weights that give
            features that are not finite.
        """
        features = self._in_chunks(self.encoders.encode_image, self._pixels, sources, "photo")
        return l2_normalise(finite(features))

    def read_image(self, source: ImageSource, name: str | None = None) -> np.ndarray:
        """A photo as uint8 [H,W,3] at the model's size, as `encode_image` takes it.

        name: what error messages call it; default: the path.

        Raises:
          ValueError, FileNotFoundError: as `preprocess.decode` and `preprocess.from_array`.
        """
        size = self.config.image_size
        if isinstance(source, np.ndarray):
            image = preprocess.from_array(source)
        else:
            image = preprocess.decode(source, name=name, size=size)
        return preprocess.resize(image, size, self.test_resize)

    def _pixels(self, sources: Sequence[ImageSource]) -> np.ndarray:
        return np.stack([*map(self.read_image, sources)])

    def embed_texts(self, texts: Sequence[str], language: str = "") -> np.ndarray:
        """Sentences -> unit features float32 [N,C]; control tokens typed in a sentence are text.

        language: of the sentences, one of `languages`; "" for the first.

        Raises:
          ValueError: another language.
        """
        index = self.language_index(language)
        encode = lambda params, text_ids: self.encoders.encode_text(params, text_ids, index)  # noqa: E731
        return l2_normalise(finite(self._in_chunks(encode, self._text_ids, texts, "text")))

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

    def doubts(self, sentence: str, language: str = "") -> list[str]:
        """What the user should know of a query before its answer: a line each.

        The end that the model does not read, and a language that it was not trained on.
        """
        lines = []
        if rest := unread(self.tokenizer, sentence, self.config.text_length):
            lines.append(
                f'note: the model reads {self.config.text_length} tokens, so not: "{rest}"'
            )
        known = self.languages or self.caption_languages or ("en",)
        known = (ALIASES.get(language, language),) if language else known
        seems = guess(sentence)
        if seems and seems not in known:
            names = ", ".join(NAMES.get(name, name) for name in known)
            lines.append(f"note: this reads like {NAMES[seems]}; the model was trained on {names}")
        return lines

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
        several = None if len(starts) > 1 else True
        for start in tqdm(starts, desc=f"embed {unit}s", leave=False, disable=several):
            rows = prepare(items[start : start + self._rows])
            size = next(size for size in SIZES if size >= min(len(rows), ROWS))
            size = -(-max(size, len(rows)) // self._shards) * self._shards
            batch = self.encoders.put_rows({"rows": padded(rows, size)})["rows"]
            out.append(np.asarray(encode(self.params, batch))[: len(rows)])
        return np.concatenate(out)


def finite(features: np.ndarray) -> np.ndarray:
    """The same features. Raises ValueError if one is NaN, infinite, or a row of zeros."""
    if not np.isfinite(features).all() or not np.any(features, axis=-1).all():
        raise ValueError(
            "the model gives features that are not finite or all zero, so its weights are damaged; "
            "convert or train it again"
        )
    return features


def load(directory: str | Path, language: str = "") -> TrainedModel:
    """The model of a run directory (its best checkpoint) or of a model directory.

    language: of a run in several languages, take the checkpoint that is best in this one.

    Raises:
      ValueError: if `directory` is neither.
    """
    method, model_config, _, params, tokenizer = read(Path(directory), language)
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
