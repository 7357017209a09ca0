"""German wording of caption plans: adjective endings in the accusative and the dative."""

from __future__ import annotations

import random

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.caption_plan import Plan

_PERSON = {"man": (("Mann", "m"), ("Herr", "m")), "woman": (("Frau", "f"), ("Dame", "f"))}
_PRONOUN = {"m": "er", "f": "sie"}
_COLOUR = {  # stems that take the regular endings (rosa, lila and orange alone would not)
    "black": ("schwarz",), "white": ("weiß",), "grey": ("grau",), "red": ("rot",),
    "orange": ("orangefarben",), "yellow": ("gelb",), "green": ("grün",), "blue": ("blau",),
    "dark_blue": ("dunkelblau", "marineblau"), "purple": ("violett", "lilafarben"),
    "pink": ("rosafarben", "pinkfarben"), "brown": ("braun",), "beige": ("beigefarben",),
}  # fmt: skip
_HAIR_COLOUR = {
    "black": "schwarz",
    "brown": "braun",
    "blond": "blond",
    "grey": "grau",
    "red": "rot",
}
_NOUN = {  # noun and gender; p: plural, without article
    "t_shirt": (("T-Shirt", "n"),),
    "shirt": (("Hemd", "n"),),
    "sweater": (("Pullover", "m"), ("Pulli", "m")),
    "hoodie": (("Kapuzenpullover", "m"), ("Hoodie", "m")),
    "jacket": (("Jacke", "f"),),
    "coat": (("Mantel", "m"),),
    "down_jacket": (("Daunenjacke", "f"), ("Steppjacke", "f")),
    "blazer": (("Blazer", "m"), ("Sakko", "n")),
    "tank_top": (("Tanktop", "n"), ("Trägertop", "n")),
    "dress": (("Kleid", "n"),),
    "jeans": (("Jeans", "f"), ("Jeanshose", "f")),
    "trousers": (("Hose", "f"), ("Stoffhose", "f")),
    "shorts": (("Shorts", "p"), ("kurze Hose", "f")),
    "skirt": (("Rock", "m"),),
    "leggings": (("Leggings", "p"),),
    "sweatpants": (("Jogginghose", "f"), ("Sporthose", "f")),
    "sneakers": (("Turnschuhe", "p"), ("Sportschuhe", "p"), ("Sneaker", "p")),
    "boots": (("Stiefel", "p"),),
    "sandals": (("Sandalen", "p"),),
    "high_heels": (("Schuhe mit hohem Absatz", "p"), ("Stöckelschuhe", "p")),
    "leather_shoes": (("Lederschuhe", "p"),),
    "backpack": (("Rucksack", "m"),),
    "shoulder_bag": (("Umhängetasche", "f"), ("Schultertasche", "f")),
    "handbag": (("Handtasche", "f"),),
    "shopping_bag": (("Einkaufstasche", "f"), ("Tragetasche", "f")),
    "suitcase": (("Koffer", "m"), ("Rollkoffer", "m")),
    "cap": (("Schirmmütze", "f"), ("Baseballkappe", "f")),
    "beanie": (("Strickmütze", "f"), ("Wollmütze", "f")),
    "sun_hat": (("Sonnenhut", "m"), ("Hut mit breiter Krempe", "m")),
    "scarf": (("Schal", "m"),),
}
_GLASSES = {"glasses": "eine Brille", "sunglasses": "eine Sonnenbrille"}
_HELD = {
    "phone": ("ein Handy", "ein Mobiltelefon"),
    "umbrella": ("einen Regenschirm", "einen zusammengeklappten Schirm"),
    "cup": ("einen Kaffeebecher", "einen Becher Kaffee"),
    "book": ("ein Buch",),
    "bottle": ("eine Wasserflasche", "eine Flasche Wasser"),
}
_MOTION = {
    "front": ("läuft auf die Kamera zu", "blickt in die Kamera"),
    "back": ("läuft von der Kamera weg", "ist von hinten zu sehen"),
    "left": ("läuft nach links", "ist von der Seite zu sehen"),
    "right": ("läuft nach rechts", "ist von der Seite zu sehen"),
}
_ARTICLE = {
    ("accusative", "m"): "einen", ("accusative", "f"): "eine", ("accusative", "n"): "ein",
    ("dative", "m"): "einem", ("dative", "f"): "einer", ("dative", "n"): "einem",
}  # fmt: skip
_ENDING = {
    ("accusative", "m"): "en", ("accusative", "f"): "e", ("accusative", "n"): "es",
    ("accusative", "p"): "e", ("dative", "m"): "en", ("dative", "f"): "en",
    ("dative", "n"): "en", ("dative", "p"): "en",
}  # fmt: skip


def word(identity: Identity, plan: Plan, rng: random.Random) -> str:
    """The plan as German text."""
    noun, gender = rng.choice(_PERSON[identity.gender])
    pronoun = _PRONOUN[gender]
    definite, indefinite = ("der", "ein") if gender == "m" else ("die", "eine")
    build = ""
    if "build" in plan.details:
        build = "schlank" if identity.build == "slim" else "kräftig"
    if rng.random() < 0.5:
        subject = f"{definite} {build + 'e ' if build else ''}{noun}"
    else:
        subject = (
            f"{indefinite} {build + ('er ' if gender == 'm' else 'e ') if build else ''}{noun}"
        )
    motion = rng.choice(_MOTION[plan.motion]) if plan.motion else ""
    worn = _join([_worn(identity, plan, topic, rng) for topic in plan.wear])
    adjective_style = rng.random() < 0.5
    hair = {case: _hair(identity, case, adjective_style) for case in ("accusative", "dative")}
    has_hair = f"hat {hair['accusative']}" if plan.hair else ""
    wears = f"{motion} und trägt {worn}" if motion else f"trägt {worn}"
    doing = _carried(identity, plan, rng)
    carried = _join(doing) if doing else ""
    if plan.style == 0 and plan.hair:
        first, rest = f"{subject} mit {hair['dative']} {wears}", [carried]
    elif plan.style == 1 and plan.hair:
        first = f"{subject} {has_hair}{',' if motion else ' und'} {wears}"
        rest = [carried]
    elif plan.style == 2 and carried:
        first, rest = f"{subject} {wears}; {pronoun} {carried}", [has_hair]
    else:
        seen = [has_hair, *doing] if has_hair else doing
        first, rest = f"{subject} {wears}", [_join(seen) if seen else ""]
    sentences = [first, *(f"{pronoun} {part}" for part in rest if part)]
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)


def _worn(identity: Identity, plan: Plan, topic: str, rng: random.Random) -> str:
    if topic == "glasses":
        return _GLASSES[identity.glasses]
    noun, gender = rng.choice(_NOUN[getattr(identity, topic)])
    if topic == "top":
        return _top(identity, plan, noun, gender, rng)
    return _phrase((_colour(identity, topic, rng),), noun, gender)


def _top(identity: Identity, plan: Plan, noun: str, gender: str, rng: random.Random) -> str:
    colour, after = _colour(identity, "top", rng), ""
    if "pattern" in plan.details:
        second = _colour(identity, "pattern", rng)
        match identity.pattern:
            case "striped" if rng.random() < 0.5:
                after = f" mit {second}en Streifen"
            case "striped":
                colour = f"{colour}-{second} gestreift"
            case "checked":
                colour = f"{colour}-{second} kariert"
            case "dotted":
                after = f" mit {second}en Punkten"
            case "print":
                after = f" mit {second}em Aufdruck" + rng.choice(("", " auf der Brust"))
    adjectives = [colour]
    if "sleeves" in plan.details:
        adjectives.insert(0, {"none": "ärmellos", "short": "kurzärmelig",
                              "long": "langärmelig"}[identity.sleeves])  # fmt: skip
    if "inner" in plan.details:
        inner, inner_gender = rng.choice((("T-Shirt", "n"), ("Hemd", "n"), ("Oberteil", "n")))
        inner_colour = _colour(identity, "inner", rng)
        after += f" über {_phrase((inner_colour,), inner, inner_gender, 'dative')}"
    return _phrase(adjectives, noun, gender) + after


def _phrase(adjectives, noun: str, gender: str, case: str = "accusative") -> str:
    """ "einen roten Pullover", "weiße Turnschuhe", "einem weißen Hemd"."""
    ending = _ENDING[case, gender]
    if noun.startswith("kurze "):  # "eine kurze blaue Hose"
        adjectives, noun = ("kurz", *adjectives), noun.removeprefix("kurze ")
    article = f"{_ARTICLE[case, gender]} " if gender != "p" else ""
    return article + " ".join([*(a + ending for a in adjectives), noun])


def _hair(identity: Identity, case: str, tied: bool) -> str:
    colour, end = _HAIR_COLOUR[identity.hair_colour], _ENDING[case, "p"]
    hair = "Haaren" if case == "dative" else "Haare"
    match identity.hair:
        case "ponytail" if tied:
            return _phrase((colour,), "Pferdeschwanz", "m", case)
        case "ponytail":
            return f"{colour}{end}, zum Pferdeschwanz gebunden{end} {hair}"
        case "bun":
            return _phrase((colour,), "Haarknoten" if tied else "Dutt", "m", case)
        case "bald":
            return _phrase((), "Glatze", "f", case)
    length = {"long": "lang", "short": "kurz", "curly": "lockig", "shoulder": "schulterlang"}
    return f"{length[identity.hair]}{end} {colour}{end} {hair}"


def _carried(identity: Identity, plan: Plan, rng: random.Random) -> list[str]:
    parts = []
    for topic in plan.carry:
        if topic == "held":
            thing = rng.choice(_HELD[identity.held])
            parts.append(rng.choice((f"hält {thing}", f"hält {thing} in der Hand")))
            continue
        noun, gender = rng.choice(_NOUN[identity.bag])
        verb = "zieht" if identity.bag == "suitcase" else "hat"
        after = " hinter sich her" if identity.bag == "suitcase" else " dabei"
        parts.append(f"{verb} {_phrase((_colour(identity, 'bag', rng),), noun, gender)}{after}")
    return parts


def _colour(identity: Identity, topic: str, rng: random.Random) -> str:
    return rng.choice(_COLOUR[getattr(identity, f"{topic}_colour")])


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} und {parts[-1]}"
