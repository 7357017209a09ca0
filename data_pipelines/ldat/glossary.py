"""The words of clothes, colours and people in every language: `glossary.tsv`, a concept per line.

A word of several lines may mean each of them (裙子 is a dress or a skirt). "schwarz*" stands for
every word that begins so, for endings. Where words overlap, the longest counts: "dark blue" is one
colour, not blue.
"""

import csv
import dataclasses
import functools
import re
from pathlib import Path

FILE = Path(__file__).with_name("glossary.tsv")
PERSON, COLOUR = "person", "colour"  # kinds that other code asks for
NO_SPACES = frozenset({"zh"})  # languages whose words stand side by side


@dataclasses.dataclass(frozen=True)
class Mention:
    """A word of the glossary in a text."""

    start: int
    end: int
    word: str  # as the glossary writes it
    kinds: frozenset[str]
    concepts: frozenset[int]  # lines of the glossary: what it may mean


class Vocabulary:
    """The glossary's words in one language.

    Raises ValueError for a language that it lacks.
    """

    def __init__(self, language: str):
        self.rows = rows()
        if language not in self.rows[0]:
            raise ValueError(
                f"the glossary has no language {language!r}; add a column to {FILE.name}"
            )
        self.language = language
        self._meanings: dict[str, set[int]] = {}
        for concept, row in enumerate(self.rows):
            for word in filter(None, row[language].split("|")):
                self._meanings.setdefault(word.lower(), set()).add(concept)
        self._words = words = sorted(self._meanings, key=len, reverse=True)
        pattern = "|".join(f"({_pattern(word)})" for word in words)
        if language not in NO_SPACES:
            pattern = rf"(?<!\w)(?:{pattern})(?!\w)"
        self._pattern = re.compile(pattern, re.IGNORECASE)

    def mentions(self, text: str) -> list[Mention]:
        """The words of a text that the glossary knows, from left to right, without overlap."""
        found = []
        for match in self._pattern.finditer(text):
            word = self._words[(match.lastindex or 1) - 1]
            concepts = self._meanings[word]
            kinds = frozenset(self.rows[concept]["kind"] for concept in concepts)
            found.append(Mention(match.start(), match.end(), word, kinds, frozenset(concepts)))
        return found

    def words(self, concepts: frozenset[int]) -> list[str]:
        """The words for any of the concepts, as the glossary writes them."""
        rows_ = (self.rows[concept][self.language] for concept in sorted(concepts))
        return [word for row in rows_ for word in row.split("|") if word]


@functools.cache
def rows() -> tuple[dict[str, str], ...]:
    """The lines of the glossary: {"kind": ..., "en": "man|guy", ...}."""
    with open(FILE, encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@functools.cache
def vocabulary(language: str) -> Vocabulary:
    """`Vocabulary`, made once per language."""
    return Vocabulary(language)


def _pattern(word: str) -> str:
    return re.escape(word).replace(r"\*", r"\w*")
