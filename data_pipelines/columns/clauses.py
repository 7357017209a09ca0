"""How IVT cuts a caption into clauses and phrases, candidates for its shorter texts.

The rules of the released code: `split_txt` and the `__getitem__` of the data sets in
datasets/bases.py for the word level, the training loop in processor/processor.py for the phrases.
"""

from collections.abc import Sequence

MIN_CHARACTERS = 6  # of a candidate, the space in front of it included


def phrase_candidates(caption: str) -> list[str]:
    """Per sentence: its longest clause, and the rest of the sentence."""
    return _longest_and_rest(_without_ends(caption))


def clause_candidates(caption: str) -> list[str]:
    """Every clause, between full stops and commas: the word level of ICFG-PEDES and RSTPReid."""
    clauses = [clause for piece in _without_ends(caption).split(".") for clause in piece.split(",")]
    return _long_enough(clauses)


def phrase_candidates_with_brackets(caption: str) -> list[str]:
    """`phrase_candidates` that keep brackets: the word level of CUHK-PEDES without attributes."""
    return _longest_and_rest(caption.lower().strip("."))


def _without_ends(caption: str) -> str:
    return caption.lower().strip(".").strip("[").strip("]")


def _longest_and_rest(text: str) -> list[str]:
    candidates = []
    for piece in text.split("."):
        clauses = piece.split(",")
        longest = max(clauses, key=len)
        clauses.remove(longest)
        candidates += [longest, ",".join(clauses).strip(",")]
    return _long_enough(candidates)


def _long_enough(candidates: Sequence[str]) -> list[str]:
    return [text.strip(" ") for text in candidates if len(text) >= MIN_CHARACTERS]
