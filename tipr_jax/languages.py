"""Languages of captions, and the languages of a run."""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

LANGUAGES = ("en", "zh", "fr", "de")
ALIASES = {"ch": "zh"}  # codes in the file names of Bi-IRRA's annotations


def language_name(given: str) -> str:
    """The code of a language in this project, given the same or the code in the authors' files.

    Raises:
      ValueError: an unknown language.
    """
    name = ALIASES.get(given, given)
    if name not in LANGUAGES:
        raise ValueError(f"language {given!r} is unknown; use some of {', '.join(LANGUAGES)}")
    return name


def run_languages(given: Iterable[str]) -> tuple[str, ...]:
    """Checks the languages of a run: the source, then targets; () for a run in one language.

    Raises:
      ValueError: an unknown language, one that comes twice, or a source without a target.
    """
    names = tuple(language_name(name) for name in given)
    if len(names) == 1 or len(set(names)) < len(names):
        raise ValueError(
            f"the languages are {', '.join(names)}; expected a source and other languages as "
            "targets: set --config.data.source and --config.data.target, or "
            "--config.data.languages, or leave all three empty"
        )
    return names


class LanguagesConfig(Protocol):
    """The fields of `config.data` that name languages."""

    source: str
    target: str
    languages: Sequence[str]


def languages_of(data_cfg: LanguagesConfig) -> tuple[str, ...]:
    """Languages of `config.data`, source first; () for a data set of one language.

    Raises:
      ValueError: as `run_languages`.
    """
    given = " ".join(map(str, data_cfg.languages or (data_cfg.source, data_cfg.target)))
    # A tuple field of the command line holds what was typed, "en,zh" or "[en,zh]", as one string.
    return run_languages(re.findall(r"[^\s,\[\]()]+", given))
