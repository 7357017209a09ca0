"""What search asks of a model: photos and sentences in, unit vectors and match scores out.

`inference.model.TrainedModel` computes them with the modules of a paper, `inference.exported` with
the programs of an exported directory and without Flax, Orbax or the model's code.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from tipr_jax.languages import ALIASES
from tipr_jax.metrics.unit_vectors import l2_normalise
from tipr_jax.preprocess import image as preprocess
from tipr_jax.text import Tokenizer
from tipr_jax.text.language import NAMES, guess
from tipr_jax.text.reading import unread

# Rows of a call of an encoder. Fewer are padded to the next of these sizes, so that few programs
# serve all and one sentence does not pay for 64.
SIZES = (1, 4, 16, 64)
ROWS = SIZES[-1]

ImageSource = str | bytes | np.ndarray  # path, encoded bytes, or uint8: see `from_array`


class Embedder(abc.ABC):
    """A model in use. A subclass sets the attributes and has the four encoders.

    Attributes:
      method: name of the method that the model is of.
      image_size: (H, W) of the pixels that `encode_image` takes.
      text_length: L, tokens of a text.
      languages: the languages it was trained on, the default first; () for a model of one.
      caption_languages: what it was trained on, if that is known.
      can_match: whether it has a matching head.
      feature_size: C, numbers in a feature.
      fingerprint: SHA-256 of what decides the features: weights, config, preprocessing and
        tokenizer. Two models with the same fingerprint give vectors that can be compared.
      tokenizer: sentences -> ids.
      test_resize: filter with which photos come to the model's size.
      directory: where it was read from; "" for one that was not.
      shards: into how many pieces the devices cut the rows of a call.
    """

    method: str
    image_size: tuple[int, int]
    text_length: int
    languages: tuple[str, ...]
    caption_languages: tuple[str, ...]
    can_match: bool
    feature_size: int
    fingerprint: str
    tokenizer: Tokenizer
    test_resize: str
    directory: str
    shards: int = 1

    @abc.abstractmethod
    def encode_image(self, pixels: np.ndarray) -> Any:
        """uint8 [B,H,W,3] -> features float32 [B,C], not normalised."""

    @abc.abstractmethod
    def encode_text(self, text_ids: np.ndarray, language: int) -> Any:
        """int32 [B,L] of one language, an index into `languages` -> as `encode_image`."""

    @abc.abstractmethod
    def image_tokens(self, pixels: np.ndarray) -> Any:
        """uint8 [B,H,W,3] -> tokens [B,1+P,D] of a model with a matching head."""

    @abc.abstractmethod
    def match_tokens(self, image_tokens: np.ndarray, text_ids: np.ndarray) -> np.ndarray:
        """Tokens [N,1+P,D] of N images, int32 [1,L] of a sentence -> match logits float32 [N]."""

    def embed_images(self, sources: Sequence[ImageSource]) -> np.ndarray:
        """Photos -> unit features float32 [N,C].

        Raises:
          ValueError, FileNotFoundError: an image that cannot be read, by name; weights that give
            features that are not finite.
        """
        features = self._in_chunks(self.encode_image, self._pixels, sources, "photo")
        return l2_normalise(finite(features))

    def read_image(self, source: ImageSource, name: str | None = None) -> np.ndarray:
        """A photo as uint8 [H,W,3] at the model's size, as `encode_image` takes it.

        name: what error messages call it; default: the path.

        Raises:
          ValueError, FileNotFoundError: as `preprocess.decode` and `preprocess.from_array`.
        """
        if isinstance(source, np.ndarray):
            image = preprocess.from_array(source)
        else:
            image = preprocess.decode(source, name=name, size=self.image_size)
        return preprocess.resize(image, self.image_size, self.test_resize)

    def _pixels(self, sources: Sequence[ImageSource]) -> np.ndarray:
        return np.stack([*map(self.read_image, sources)])

    def embed_texts(self, texts: Sequence[str], language: str = "") -> np.ndarray:
        """Sentences -> unit features float32 [N,C]; control tokens typed in a sentence are text.

        language: of the sentences, one of `languages`; "" for the first.

        Raises:
          ValueError: another language.
        """
        index = self.language_index(language)
        encode = lambda text_ids: self.encode_text(text_ids, index)  # noqa: E731
        return l2_normalise(finite(self._in_chunks(encode, self._text_ids, texts, "text")))

    def _text_ids(self, texts: Sequence[str]) -> np.ndarray:
        return self.tokenizer(texts, self.text_length)

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
        if rest := unread(self.tokenizer, sentence, self.text_length):
            lines.append(f'note: the model reads {self.text_length} tokens, so not: "{rest}"')
        known = self.languages or self.caption_languages or ("en",)
        known = (ALIASES.get(language, language),) if language else known
        seems = guess(sentence)
        if seems and seems not in known:
            names = ", ".join(NAMES.get(name, name) for name in known)
            lines.append(f"note: this reads like {NAMES[seems]}; the model was trained on {names}")
        return lines

    def check_can_match(self) -> None:
        """Raises ValueError for a model without a matching head."""
        if not self.can_match:
            raise ValueError(
                f"this model of {self.method} has no matching head; search without re-ranking"
            )

    def match(self, sources: Sequence[ImageSource], sentence: str) -> np.ndarray:
        """How well each image fits the sentence, by the matching head: logits float32 [N].

        Raises:
          ValueError: a model without that head; an image that cannot be read.
        """
        self.check_can_match()
        tokens = self._in_chunks(self.image_tokens, self._pixels, sources, "photo")
        return self.match_tokens(tokens, self._text_ids([sentence]))

    def _in_chunks(
        self,
        encode: Callable[[np.ndarray], Any],
        prepare: Callable[[Sequence], np.ndarray],
        items: Sequence,
        unit: str,
    ) -> np.ndarray:
        """encode(prepare(items)), so many rows at a time."""
        if not len(items):
            raise ValueError(f"no {unit}s to embed")
        out = []
        size = call_rows(ROWS, self.shards)
        starts = range(0, len(items), size)
        several = None if len(starts) > 1 else True
        for start in tqdm(starts, desc=f"embed {unit}s", leave=False, disable=several):
            rows = prepare(items[start : start + size])
            whole = padded(rows, call_rows(len(rows), self.shards))
            out.append(np.asarray(encode(whole))[: len(rows)])
        return np.concatenate(out)


def call_rows(rows: int, shards: int = 1) -> int:
    """How many rows a call of an encoder has that is to take so many: few sizes for all."""
    size = next((size for size in SIZES if size >= rows), rows)
    return -(-size // shards) * shards


def padded(x: np.ndarray, rows: int) -> np.ndarray:
    """x with zeros up to `rows`."""
    if len(x) == rows:
        return x
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def finite(features: np.ndarray) -> np.ndarray:
    """The same features. Raises ValueError if one is NaN, infinite, or a row of zeros."""
    if not np.isfinite(features).all() or not np.any(features, axis=-1).all():
        raise ValueError(
            "the model gives features that are not finite or all zero, so its weights are damaged; "
            "convert or train it again"
        )
    return features
