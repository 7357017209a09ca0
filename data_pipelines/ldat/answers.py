"""What a language model answered: the text of a reply, and whether it can be a translation at all.

Refused here is only what is certainly none, so that a bad answer is never written down as one; how
good the others are is the scorer's business.
"""

from typing import Any

from data_pipelines.ldat.lexical import language_share, length_share
from tipr_jax.text import language

_LEAST_LENGTH = 0.6  # of `length_share`: 2.7 times shorter or longer than usual
_LEAST_LANGUAGE = 0.5  # of `language_share`
_QUOTES = "\"'“”„«»「」"


class BadAnswer(Exception):
    """A reply without a usable text."""


def text_of(reply: Any) -> str:
    """The text of a chat completion, without quotation marks and white space around it.

    Raises:
      BadAnswer: no choice, no text, or the model stopped for another reason than having finished.
    """
    try:
        choice = reply.choices[0]
        text, reason = choice.message.content, choice.finish_reason
    except (AttributeError, IndexError, TypeError):  # a page of a proxy, or an error as 200
        raise BadAnswer("the reply is no chat completion") from None
    if not isinstance(text, str) or not text.strip():
        raise BadAnswer("the answer is empty")
    if reason not in ("stop", None):
        raise BadAnswer(f"the answer is cut off (finish_reason {reason!r})")
    text = " ".join(text.split())
    if len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text


def problem(source: str, text: str, source_name: str, target: str) -> str:
    """Says why a text cannot be a translation; "" if it can."""
    if not text:
        return "the answer is empty"
    if text.casefold() == source.casefold():
        return "the answer repeats the source"
    guessed = language.guess(text)
    if language_share(source, text, target) < _LEAST_LANGUAGE or guessed not in ("", target):
        named = language.NAMES.get(guessed, "another language")
        return f"the answer is in {named}, not in {language.NAMES[target]}"
    share = length_share(source, text, source_name, target)
    if share < _LEAST_LENGTH:
        return f"the answer has {len(text)} characters for a source of {len(source)}"
    return ""
