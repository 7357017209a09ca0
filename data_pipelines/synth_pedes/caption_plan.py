"""What is said about a person in a picture, whatever the language.

Nothing the viewpoint hides; the colours of top and bottom nearly always, everything else with the
frequencies below.
"""

from __future__ import annotations

import dataclasses
import random

from data_pipelines.synth_pedes.attributes import OPEN_TOPS, Identity
from data_pipelines.synth_pedes.view import View

_MENTION = {
    "top": 0.97, "bottom": 0.96, "shoes": 0.68, "hair": 0.7, "bag": 0.88, "hat": 0.85,
    "glasses": 0.6, "scarf": 0.82, "held": 0.72, "inner": 0.7, "pattern": 0.88, "sleeves": 0.45,
    "motion": 0.18, "build": 0.2,
}  # fmt: skip
_MIN_TOPICS = 4  # shorter captions would fall under the 15 words that annotators were asked for
_DETAILS = {"inner", "pattern", "sleeves", "build"}
_WORN = ("hat", "glasses", "scarf", "top", "bottom", "shoes")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The content of one caption, language-free. Topics are names of `Identity` fields."""

    wear: tuple[str, ...]  # at least one of _WORN, in the order of mention
    hair: bool
    carry: tuple[str, ...]  # bag, held
    details: frozenset[str]  # inner, pattern, sleeves, build
    motion: str  # "" or the viewpoint
    style: int  # sentence pattern, 0..3


def make_plan(identity: Identity, view: View, rng: random.Random) -> Plan:
    """Draws the content of a caption."""
    seen = visible_topics(identity, view)
    chance = {topic: rng.random() for topic in _MENTION}
    said = {topic for topic in seen if chance[topic] < _MENTION[topic]}
    for topic in sorted(seen - _DETAILS, key=lambda topic: chance[topic]):
        if len(said & set(_WORN)) >= 2 and len(said) >= _MIN_TOPICS:
            break
        said.add(topic)
    wear = [topic for topic in _WORN if topic in said]
    if rng.random() < 0.4:
        wear = [*(t for t in wear if t in ("top", "bottom", "shoes")),
                *(t for t in wear if t not in ("top", "bottom", "shoes"))]  # fmt: skip
    if rng.random() < 0.15:
        wear.reverse()
    carry = [topic for topic in ("bag", "held") if topic in said]
    if rng.random() < 0.3:
        carry.reverse()
    return Plan(
        wear=tuple(wear),
        hair="hair" in said,
        carry=tuple(carry),
        details=frozenset(said & _DETAILS),
        motion=view.viewpoint if chance["motion"] < _MENTION["motion"] else "",
        style=rng.randrange(4),
    )


def visible_topics(identity: Identity, view: View) -> set[str]:
    """What an annotator could mention about this picture."""
    seen = {"top", "bottom", "hair", "shoes", "sleeves"}
    seen |= {
        t for t in ("bag", "hat", "glasses", "scarf", "held") if getattr(identity, t) != "none"
    }
    if identity.build != "average":
        seen.add("build")
    if identity.top in OPEN_TOPS:
        seen.add("inner")
    if identity.pattern != "plain":
        seen.add("pattern")
    if identity.bottom == "none":
        seen.discard("bottom")
    if identity.top not in ("shirt", "dress"):
        seen.discard("sleeves")  # the name of the garment says it
    if not view.feet_visible:
        seen.discard("shoes")
    if view.viewpoint == "back":
        seen -= {"glasses", "inner"} | ({"pattern"} if identity.pattern == "print" else set())
        if identity.held not in ("none", "umbrella"):
            seen.discard("held")
    if identity.hat != "none" and identity.hair in ("short", "bald"):
        seen.discard("hair")
    return seen
