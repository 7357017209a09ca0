"""In which language a sentence seems to be: by its script, or by the little words of its grammar.

A hint for people and no more: a few words without grammar ("red jacket") tell nothing.
"""

import regex

SCRIPTS = {  # the first that a sentence has letters of; languages that share a script are one
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "ko": r"\p{Hangul}",
    "zh": r"\p{Han}",
    "ru": r"\p{Cyrillic}",
    "ar": r"\p{Arabic}",
    "hi": r"\p{Devanagari}",
    "th": r"\p{Thai}",
    "el": r"\p{Greek}",
    "he": r"\p{Hebrew}",
}
NAMES = {
    **{"ja": "Japanese", "ko": "Korean", "zh": "Chinese", "ru": "Cyrillic", "ar": "Arabic"},
    **{"hi": "Devanagari", "th": "Thai", "el": "Greek", "he": "Hebrew", "en": "English"},
    **{"de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese"},
}
_GRAMMAR = {
    "en": "a the is and with in wearing his her of who has carrying on are has",
    "de": "ein eine einen einem einer der die das und mit trägt seine ihre ist mann frau rote",
    "fr": "un une le la les et avec des du qui porte homme femme est sa son dans",
    "es": "un una el la los las y con de lleva hombre mujer chaqueta su que del",
    "it": "un una il la i con di uomo donna che indossa e della sua",
    "pt": "um uma o a os com de homem mulher vestindo que e casaco seu sua",
}
_WORDS = {language: frozenset(words.split()) for language, words in _GRAMMAR.items()}


def guess(text: str) -> str:
    """A key of NAMES, or "" where nothing speaks clearly for one language."""
    letters = regex.findall(r"\p{L}", text)
    for language, script in SCRIPTS.items():
        if 2 * len(regex.findall(script, text)) > len(letters):
            return language
    words = regex.findall(r"\p{L}+", text.lower())
    counts = {name: sum(word in known for word in words) for name, known in _WORDS.items()}
    best, second = sorted(counts, key=counts.__getitem__, reverse=True)[:2]
    return best if counts[best] > max(1, counts[second]) else ""
