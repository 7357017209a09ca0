"""French wording of caption plans: gender and number agreement of articles and colours."""

from __future__ import annotations

import random

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.caption_plan import Plan

_PERSON = {"man": ("homme", "monsieur"), "woman": ("femme", "dame")}
_PRONOUN = {"man": "il", "woman": "elle"}
# Colour -> forms for m, f, mp, fp; one form only where the adjective never changes.
_COLOUR = {
    "black": ("noir", "noire", "noirs", "noires"),
    "white": ("blanc", "blanche", "blancs", "blanches"),
    "grey": ("gris", "grise", "gris", "grises"),
    "red": ("rouge", "rouge", "rouges", "rouges"),
    "orange": ("orange",),
    "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
    "green": ("vert", "verte", "verts", "vertes"),
    "blue": ("bleu", "bleue", "bleus", "bleues"),
    "dark_blue": ("bleu marine",),
    "purple": ("violet", "violette", "violets", "violettes"),
    "pink": ("rose", "rose", "roses", "roses"),
    "brown": ("marron",),
    "beige": ("beige", "beige", "beiges", "beiges"),
}
_FORM = {"m": 0, "f": 1, "mp": 2, "fp": 3}
_HAIR_COLOUR = {"black": ("noirs", "noir", "noire"), "brown": ("bruns", "brun", "brune"),
                "blond": ("blonds", "blond", "blonde"), "grey": ("gris", "gris", "grise"),
                "red": ("roux", "roux", "rousse")}  # fmt: skip
# Noun and its gender (p: plural).
_NOUN = {
    "t_shirt": (("t-shirt", "m"), ("tee-shirt", "m")),
    "shirt": (("chemise", "f"),),
    "sweater": (("pull", "m"), ("chandail", "m")),
    "hoodie": (("sweat à capuche", "m"), ("pull à capuche", "m")),
    "jacket": (("veste", "f"), ("blouson", "m")),
    "coat": (("manteau", "m"), ("pardessus", "m")),
    "down_jacket": (("doudoune", "f"), ("veste matelassée", "f")),
    "blazer": (("blazer", "m"), ("veste de costume", "f")),
    "tank_top": (("débardeur", "m"), ("haut sans manches", "m")),
    "dress": (("robe", "f"),),
    "jeans": (("jean", "m"),),
    "trousers": (("pantalon", "m"),),
    "shorts": (("short", "m"), ("bermuda", "m")),
    "skirt": (("jupe", "f"),),
    "leggings": (("legging", "m"), ("pantalon moulant", "m")),
    "sweatpants": (("pantalon de jogging", "m"), ("bas de survêtement", "m")),
    "sneakers": (("baskets", "fp"), ("chaussures de sport", "fp")),
    "boots": (("bottes", "fp"),),
    "sandals": (("sandales", "fp"),),
    "high_heels": (("chaussures à talons", "fp"), ("talons hauts", "mp")),
    "leather_shoes": (("chaussures en cuir", "fp"),),
    "backpack": (("sac à dos", "m"),),
    "shoulder_bag": (("sac en bandoulière", "m"), ("sacoche", "f")),
    "handbag": (("sac à main", "m"),),
    "shopping_bag": (("sac de courses", "m"), ("cabas", "m")),
    "suitcase": (("valise", "f"), ("valise à roulettes", "f")),
    "cap": (("casquette", "f"),),
    "beanie": (("bonnet", "m"), ("bonnet en laine", "m")),
    "sun_hat": (("chapeau de soleil", "m"), ("chapeau à large bord", "m")),
    "scarf": (("écharpe", "f"), ("foulard", "m")),
}
_GLASSES = {"glasses": "des lunettes", "sunglasses": "des lunettes de soleil"}
_HELD = {
    "phone": ("un téléphone", "un téléphone portable"),
    "umbrella": ("un parapluie", "un parapluie fermé"),
    "cup": ("un gobelet de café", "une tasse de café"),
    "book": ("un livre",),
    "bottle": ("une bouteille d'eau",),
}
_MOTION = {
    "front": ("face à la caméra", "qui marche vers la caméra"),
    "back": ("de dos", "vu{e} de dos"),
    "left": ("vu{e} de profil", "qui marche vers la gauche"),
    "right": ("vu{e} de profil", "qui marche vers la droite"),
}


def word(identity: Identity, plan: Plan, rng: random.Random) -> str:
    """The plan as French text."""
    woman = identity.gender == "woman"
    person = rng.choice(_PERSON[identity.gender])
    definite = "l'homme" if person == "homme" else f"{'la' if woman else 'le'} {person}"
    subject = rng.choice((definite, f"{'une' if woman else 'un'} {person}"))
    if "build" in plan.details:
        slim, heavy = ("mince", "corpulente" if woman else "corpulent")
        subject += f" {slim if identity.build == 'slim' else heavy}"
    if plan.motion:
        subject += " " + rng.choice(_MOTION[plan.motion]).replace("{e}", "e" if woman else "")
    pronoun = _PRONOUN[identity.gender]
    worn = _join([_worn(identity, plan, topic, rng) for topic in plan.wear])
    hair = _hair(identity, rng) if plan.hair else ""
    doing = _carried(identity, plan, rng)
    carried = _join(doing) if doing else ""
    if plan.style == 0 and hair:
        first, rest = f"{subject} {_with(hair)} porte {worn}", [carried]
    elif plan.style == 1 and hair:
        first, rest = f"{subject} a {hair} et porte {worn}", [carried]
    elif plan.style == 2 and carried:
        first, rest = f"{subject} porte {worn} ; {pronoun} {carried}", [f"a {hair}" if hair else ""]
    else:
        seen = [f"a {hair}", *doing] if hair else doing
        first, rest = f"{subject} porte {worn}", [_join(seen) if seen else ""]
    sentences = [first, *(f"{pronoun} {part}" for part in rest if part)]
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)


def _worn(identity: Identity, plan: Plan, topic: str, rng: random.Random) -> str:
    if topic == "glasses":
        return _GLASSES[identity.glasses]
    noun, gender = rng.choice(_NOUN[getattr(identity, topic)])
    phrase = f"{_article(gender)} {noun} {_colour(identity, topic, gender)}"
    return phrase + _top_details(identity, plan, rng) if topic == "top" else phrase


def _top_details(identity: Identity, plan: Plan, rng: random.Random) -> str:
    words = ""
    if "sleeves" in plan.details:
        words += {"none": " sans manches", "short": " à manches courtes",
                  "long": " à manches longues"}[identity.sleeves]  # fmt: skip
    if "pattern" in plan.details:
        motif = rng.choice(("motif", "logo"))
        words += {
            "striped": f" à rayures {_colour(identity, 'pattern', 'fp')}",
            "checked": f" à carreaux {_colour(identity, 'pattern', 'mp')}",
            "dotted": f" à pois {_colour(identity, 'pattern', 'mp')}",
            "print": f" avec un {motif} {_colour(identity, 'pattern', 'm')}",
        }[identity.pattern]  # fmt: skip
    if "inner" in plan.details:
        noun, gender = rng.choice((("t-shirt", "m"), ("chemise", "f"), ("haut", "m")))
        words += f" sur {_article(gender)} {noun} {_colour(identity, 'inner', gender)}"
    return words


def _hair(identity: Identity, rng: random.Random) -> str:
    plural, masculine, feminine = _HAIR_COLOUR[identity.hair_colour]
    return {
        "long": f"de longs cheveux {plural}",
        "shoulder": f"les cheveux {plural} mi-longs",
        "short": f"les cheveux {plural} courts",
        "curly": f"les cheveux {plural} bouclés",
        "ponytail": rng.choice((f"une queue de cheval {feminine}",
                                f"les cheveux {plural} attachés en queue de cheval")),
        "bun": rng.choice((f"un chignon {masculine}", f"les cheveux {plural} en chignon")),
        "bald": rng.choice(("la tête rasée", "le crâne chauve")),
    }[identity.hair]  # fmt: skip


def _with(hair: str) -> str:
    """ "a de longs cheveux" but "aux longs cheveux"; "a les cheveux" but "aux cheveux"."""
    for start in ("de ", "les "):
        if hair.startswith(start):
            return "aux " + hair.removeprefix(start)
    if hair.startswith(("la ", "le ")):
        return "à la " + hair[3:] if hair.startswith("la ") else "au " + hair[3:]
    return "avec " + hair


def _carried(identity: Identity, plan: Plan, rng: random.Random) -> list[str]:
    parts = []
    for topic in plan.carry:
        if topic == "held":
            thing = rng.choice(_HELD[identity.held])
            parts.append(rng.choice((f"tient {thing}", f"tient {thing} à la main")))
            continue
        noun, gender = rng.choice(_NOUN[identity.bag])
        verb = "tire" if identity.bag == "suitcase" else rng.choice(("porte", "transporte"))
        parts.append(f"{verb} {_article(gender)} {noun} {_colour(identity, 'bag', gender)}")
    return parts


def _article(gender: str) -> str:
    return {"m": "un", "f": "une"}.get(gender, "des")


def _colour(identity: Identity, topic: str, gender: str) -> str:
    forms = _COLOUR[getattr(identity, f"{topic}_colour")]
    return forms[_FORM[gender]] if len(forms) > 1 else forms[0]


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} et {parts[-1]}"
