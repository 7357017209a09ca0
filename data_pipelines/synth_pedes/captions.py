"""Captions of a person in a picture, in four languages.

A caption is made in two steps. `caption_plan.make_plan` chooses what is mentioned, in which order
and in which detail. A grammar per language then words the plan, choosing among synonyms. Both steps
draw from one generator, the plan first: generators in the same state give aligned translations.
"""

from __future__ import annotations

import random

from data_pipelines.synth_pedes import grammar_de, grammar_en, grammar_fr, grammar_zh
from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.caption_plan import make_plan
from data_pipelines.synth_pedes.view import View

_GRAMMARS = {"en": grammar_en, "zh": grammar_zh, "fr": grammar_fr, "de": grammar_de}
LANGUAGES = tuple(_GRAMMARS)


def caption(identity: Identity, view: View, language: str, rng: random.Random) -> str:
    """One caption of `identity` seen in `view`; `language` is one of LANGUAGES."""
    plan = make_plan(identity, view, rng)
    return _GRAMMARS[language].word(identity, plan, rng)


def named_attributes(identity: Identity, view: View, rng: random.Random) -> dict[str, str]:
    """What the English caption drawn from an equal `rng` tells, topic by topic, in other words."""
    plan = make_plan(identity, view, rng)
    return grammar_en.attributes(identity, plan, rng)
