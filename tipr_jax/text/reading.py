"""What a model does not read of a text, because it reads so many tokens and no more."""

from collections.abc import Sequence

import numpy as np

from tipr_jax.text import Tokenizer


def is_cut(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> np.ndarray:
    """bool [N]: which texts have more tokens than `length`."""
    padding = tokenizer([""], length + 1)[0, -1]
    return tokenizer(texts, length + 1)[:, -1] != padding


def share_cut(tokenizer: Tokenizer, texts: Sequence[str], length: int, sample: int = 1000) -> float:
    """The share of the texts that have more tokens than `length`, estimated on `sample` of them."""
    chosen = texts[:: max(1, len(texts) // sample)]
    return float(is_cut(tokenizer, chosen, length).mean()) if chosen else 0.0


def unread(tokenizer: Tokenizer, text: str, length: int) -> str:
    """The end of a text that is not read; "" if all of it is."""
    if not is_cut(tokenizer, [text], length)[0]:
        return ""
    whole = tokenizer([text], length)
    first, last = 0, len(text)  # the shortest beginning that gives the same tokens lies in between
    while first < last:
        middle = (first + last) // 2
        if np.array_equal(tokenizer([text[:middle]], length), whole):
            last = middle
        else:
            first = middle + 1
    return text[last:].strip()
