"""The prompts: `prompts/*.txt` with the words of the glossary and examples that fit a caption.

$source and $target are names of languages, $caption is the caption, $glossary the lines of the
glossary that it needs, $examples the pairs of `prompts/examples.tsv`. Copy the folder and name it
in --config.openai.prompts to change them; a changed prompt makes finished answers stale.
"""

import csv
import string
from pathlib import Path

from data_pipelines.ldat import glossary
from tipr_jax.text.language import NAMES

FOLDER = Path(__file__).with_name("prompts")


class Prompt:
    """One prompt for a pair of languages.

    Raises:
      ValueError: a file is missing, or names a field that is unknown or lacks $caption.
    """

    def __init__(self, folder: Path, name: str, source: str, target: str):
        self.source, self.target = source, target
        path = folder / f"{name}.txt"
        if not path.is_file():
            raise ValueError(f"--config.openai.prompts={folder}: expected {path.name} there")
        self._template = string.Template(path.read_text(encoding="utf-8").strip())
        self._examples = _examples(folder / "examples.tsv", source, target)
        fields = set(self._template.get_identifiers())
        known = {"source", "target", "caption", "glossary", "examples"}
        if fields - known or "caption" not in fields:
            raise ValueError(
                f"{path}: has the fields {', '.join(sorted(fields)) or 'none'}; expected $caption "
                f"and, where wanted, others of {', '.join(sorted(known))}"
            )
        # All that decides what is asked, beside the caption.
        self.content = (self._template.template, self._examples, glossary.rows(), source, target)

    def text(self, caption: str) -> str:
        """The prompt for a caption."""
        return self._template.substitute(
            source=NAMES[self.source],
            target=NAMES[self.target],
            caption=caption,
            glossary=_glossary_lines(caption, self.source, self.target),
            examples=self._examples,
        )


def _glossary_lines(caption: str, source: str, target: str) -> str:
    """ "Use these words: coat = 大衣 or 外套; red = 红色", for the words of the caption."""
    here, there = glossary.vocabulary(source), glossary.vocabulary(target)
    pairs = {}
    for mention in here.mentions(caption):
        words = [word.rstrip("*") for word in there.words(mention.concepts)]
        pairs[mention.word.rstrip("*")] = " or ".join(words[:2])
    listed = "; ".join(f"{word} = {words}" for word, words in pairs.items() if words)
    return f"Words of this field (adapt their endings): {listed}\n" if listed else ""


def _examples(path: Path, source: str, target: str) -> str:
    """The example pairs; "" where the file lacks one of the languages, or is missing."""
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    pairs = [(row.get(source), row.get(target)) for row in rows]
    lines = [f'"{here}"\n{there}\n' for here, there in pairs if here and there]
    return "Examples:\n" + "".join(lines) if lines else ""
