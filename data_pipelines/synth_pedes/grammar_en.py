"""English wording of caption plans."""

from __future__ import annotations

import random

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.caption_plan import Plan

_PERSON = {
    "man": ("man", "man", "guy", "male", "gentleman"),
    "woman": ("woman", "woman", "lady", "female"),
}
_PRONOUN = {"man": "he", "woman": "she"}
_COLOUR = {
    "grey": ("grey", "gray"), "dark_blue": ("dark blue", "navy blue", "navy"),
    "purple": ("purple", "violet"), "beige": ("beige", "tan"),
    "turquoise": ("turquoise", "teal"), "lime": ("lime", "chartreuse"),
    "magenta": ("magenta", "fuchsia"), "maroon": ("maroon", "burgundy"),
    "mint": ("mint",), "lavender": ("lavender", "lilac"),
}  # fmt: skip
_HAIR_COLOUR = {"blond": ("blond", "blonde"), "grey": ("grey", "gray"), "red": ("red", "ginger")}
_NOUN = {
    "t_shirt": ("t-shirt", "tee shirt", "T-shirt"), "shirt": ("shirt", "button-up shirt"),
    "sweater": ("sweater", "pullover", "jumper"), "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket",), "coat": ("coat", "overcoat"),
    "down_jacket": ("down jacket", "puffer jacket", "padded jacket"),
    "blazer": ("blazer", "suit jacket"), "tank_top": ("tank top", "sleeveless top"),
    "dress": ("dress",), "jeans": ("jeans", "denim pants"),
    "trousers": ("trousers", "pants", "slacks"), "shorts": ("shorts",), "skirt": ("skirt",),
    "leggings": ("leggings", "tight pants"), "sweatpants": ("sweatpants", "jogging pants"),
    "sneakers": ("sneakers", "sports shoes", "shoes"), "boots": ("boots",),
    "sandals": ("sandals",), "high_heels": ("high heels", "high-heeled shoes"),
    "leather_shoes": ("leather shoes", "dress shoes"), "backpack": ("backpack", "rucksack"),
    "shoulder_bag": ("shoulder bag", "cross-body bag", "satchel"),
    "handbag": ("handbag", "purse"), "shopping_bag": ("shopping bag", "tote bag"),
    "suitcase": ("suitcase", "trolley case"), "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat", "woolen hat"), "sun_hat": ("sun hat", "wide-brimmed hat"),
    "glasses": ("glasses", "eyeglasses"), "sunglasses": ("sunglasses", "dark glasses"),
    "scarf": ("scarf",), "phone": ("mobile phone", "cell phone", "phone"),
    "umbrella": ("folded umbrella", "umbrella"), "cup": ("cup of coffee", "coffee cup"),
    "book": ("book",), "bottle": ("bottle of water", "water bottle"),
    "poncho": ("poncho", "cape"), "tunic": ("tunic", "smock"),
    "jersey": ("jersey", "polo"), "kimono": ("kimono", "robe"),
    "kilt": ("kilt", "tartan wrap"), "harem_pants": ("harem bottoms", "baggy aladdins"),
    "culottes": ("culottes", "gauchos"),
}  # fmt: skip
_PLURAL = frozenset({"jeans", "trousers", "shorts", "leggings", "sweatpants", "sneakers",
                     "harem_pants", "culottes",
                     "boots", "sandals", "high_heels", "leather_shoes",
                     "glasses", "sunglasses"})  # fmt: skip
_MOTION = {
    "front": ("walking towards the camera", "facing the camera"),
    "back": ("walking away from the camera", "seen from behind"),
    "left": ("walking to the left", "seen from the side"),
    "right": ("walking to the right", "seen from the side"),
}


def word(identity: Identity, plan: Plan, rng: random.Random) -> str:
    """The plan as English text."""
    person = _built(rng.choice(_PERSON[identity.gender]), identity, plan)
    subject = rng.choice((f"the {person}", f"the {person}", _a(person)))
    pronoun = rng.choice((_PRONOUN[identity.gender], f"the {person.split()[-1]}"))
    worn = _join([_worn(identity, plan, topic, rng) for topic in plan.wear])
    hair = _hair(identity, rng) if plan.hair else ""
    carried = _carried(identity, plan, rng)
    motion = f" {rng.choice(_MOTION[plan.motion])}" if plan.motion else ""
    wears = rng.choice(("is wearing", "wears", "is dressed in"))
    if "glasses" in plan.wear:  # nobody is dressed in glasses
        wears = wears.replace("dressed in", "wearing")
    if plan.style == 0 and hair:
        first, rest = f"{subject}{motion} with {hair} {wears} {worn}", [carried]
    elif plan.style == 1 and hair:
        first, rest = f"{subject}{motion} has {hair} and {wears} {worn}", [carried]
    elif plan.style == 2 and carried:
        first = f"{subject}{motion} {wears} {worn}, and {carried}"
        rest = [f"has {hair}" if hair else ""]
    else:
        seen = " and ".join(part for part in (f"has {hair}" if hair else "", carried) if part)
        first, rest = f"{subject}{motion} {wears} {worn}", [seen]
    sentences = [first, *(f"{pronoun} {part}" for part in rest if part)]
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)


def attributes(identity: Identity, plan: Plan, rng: random.Random) -> dict[str, str]:
    """The plan as noun phrases without article: {"top": "red t-shirt", "hair": "long hair"}."""
    person = rng.choice(_PERSON[identity.gender])
    told = {"person": _built(person, identity, plan)}
    told |= {topic: _worn(identity, plan, topic, rng) for topic in plan.wear}
    if plan.hair:
        told["hair"] = _hair(identity, rng)
    for topic in plan.carry:
        noun = rng.choice(_NOUN[getattr(identity, topic)])
        told[topic] = noun if topic == "held" else f"{_colour(identity, topic, rng)} {noun}"
    return {topic: text.removeprefix("a ").removeprefix("an ") for topic, text in told.items()}


def _built(person: str, identity: Identity, plan: Plan) -> str:
    if "build" not in plan.details:
        return person
    return f"{'slim' if identity.build == 'slim' else 'heavy-set'} {person}"


def _worn(identity: Identity, plan: Plan, topic: str, rng: random.Random) -> str:
    kind = getattr(identity, topic)
    noun = rng.choice(_NOUN[kind])
    if topic == "top":
        return _top(identity, plan, noun, rng)
    words = noun if topic == "glasses" else f"{_colour(identity, topic, rng)} {noun}"
    if kind not in _PLURAL:
        return _a(words)
    return f"a pair of {words}" if rng.random() < 0.2 else words


def _top(identity: Identity, plan: Plan, noun: str, rng: random.Random) -> str:
    colour, after = _colour(identity, "top", rng), ""
    if "pattern" in plan.details:
        second = _colour(identity, "pattern", rng)
        match identity.pattern:
            case "striped" if rng.random() < 0.5:
                after = f" with {second} stripes"
            case "striped":
                colour = f"{colour} and {second} striped"
            case "checked":
                colour = f"{colour} and {second} {rng.choice(('checked', 'plaid', 'checkered'))}"
            case "zigzag":
                after = f" with {second} {rng.choice(('zigzags', 'chevrons'))}"
            case "dotted":
                after = f" with {second} {rng.choice(('dots', 'polka dots'))}"
            case "print":
                thing = rng.choice(("print", "logo", "graphic"))
                place = rng.choice(("front", "chest"))
                after = f" with {_a(f'{second} {thing}')} on the {place}"
    if "sleeves" in plan.details:
        sleeves = {"none": "sleeveless", "short": "short-sleeved", "long": "long-sleeved"}
        colour = f"{sleeves[identity.sleeves]} {colour}"
    if "inner" in plan.details:
        colour = rng.choice((colour, f"open {colour}"))
        inner = rng.choice(("shirt", "top", "t-shirt"))
        after = f" over {_a(_colour(identity, 'inner', rng) + ' ' + inner)}"
    return _a(f"{colour} {noun}") + after


def _hair(identity: Identity, rng: random.Random) -> str:
    colour = rng.choice(_HAIR_COLOUR.get(identity.hair_colour, (identity.hair_colour,)))
    return {
        "long": f"long {colour} hair",
        "shoulder": rng.choice((f"shoulder-length {colour} hair", f"medium-length {colour} hair")),
        "short": f"short {colour} hair",
        "curly": f"curly {colour} hair",
        "ponytail": rng.choice((_a(f"{colour} ponytail"), f"{colour} hair tied in a ponytail")),
        "bun": rng.choice((f"{colour} hair in a bun", _a(f"{colour} hair bun"))),
        "bald": rng.choice(("a bald head", "a shaved head")),
    }[identity.hair]


def _carried(identity: Identity, plan: Plan, rng: random.Random) -> str:
    """ "is carrying a black backpack and holding a phone", or nothing."""
    parts = []
    for topic in plan.carry:
        noun = rng.choice(_NOUN[getattr(identity, topic)])
        if topic == "held":
            parts.append(rng.choice((f"holding {_a(noun)}", f"holding {_a(noun)} in one hand")))
            continue
        verb = "pulling" if identity.bag == "suitcase" else "carrying"
        parts.append(f"{verb} {_a(_colour(identity, 'bag', rng) + ' ' + noun)}")
    return "is " + " and ".join(parts) if parts else ""


def _colour(identity: Identity, topic: str, rng: random.Random) -> str:
    colour = getattr(identity, f"{topic}_colour")
    return rng.choice(_COLOUR.get(colour, (colour,)))


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _join(parts: list[str]) -> str:
    """ "x", "x and y", "x, y and z"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
