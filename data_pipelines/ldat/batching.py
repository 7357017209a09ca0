"""Many texts for a model that takes a few at a time, padded to the longest of them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")


def longest_first(
    texts: Sequence[str], size: int, ask: Callable[[list[str]], Sequence[Answer]]
) -> list[Answer]:
    """An answer per text, in the order of `texts`.

    ask: gets up to `size` texts of like length, so that little is padded; the longest ones come
      first, so that what does not fit into memory shows at once.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), size):
        places = order[start : start + size]
        answers |= zip(places, ask([texts[i] for i in places]), strict=True)
    return [answers[i] for i in range(len(texts))]
