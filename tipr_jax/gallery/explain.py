"""Which words made an item match: how its score changes when a word is left out."""

import re
from collections.abc import Sequence

import numpy as np

from tipr_jax.gallery.retriever import Match, Retriever

# A word of a script that has spaces, or one character of a script that has none.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['\u2019-]\w+)*"
)


def explain(
    retriever: Retriever, sentence: str, matches: Sequence[Match], language: str = ""
) -> dict[int, list[tuple[str, float]]]:
    """Per item id the words of the sentence with their share of the cosine similarity.

    The share is the similarity with the whole sentence minus the similarity without the word: above
    0 the word speaks for the item. Shares of words that only count together, as "dark blue", do not
    add up to the whole.
    """
    places = [match.span() for match in _WORD.finditer(sentence)]
    without = [f"{sentence[:start]} {sentence[end:]}".strip() for start, end in places]
    readable = [text if any(map(str.isalnum, text)) else sentence for text in without]
    vectors = retriever.model.embed_texts([sentence, *readable], language)
    ids = [match.item.id for match in matches]
    scores = retriever.vectors(ids) @ vectors.T  # [items, 1 + words]
    shares = scores[:, :1] - scores[:, 1:]
    words = [sentence[start:end] for start, end in places]
    return {i: _paired(words, row) for i, row in zip(ids, shares, strict=True)}


def _paired(words: Sequence[str], row: np.ndarray) -> list[tuple[str, float]]:
    return [(word, float(share)) for word, share in zip(words, row, strict=True)]
