"""Who is in the picture: the attributes of a generated person and how they are drawn by lot.

An `Identity` is a flat record of caption-visible attributes plus two hidden ones (skin tone and a
tint seed). Person `index` of a split is a pure function of (seed, split, index), so a larger data
set begins with the people of a smaller one. Every fourth person is a near twin: a copy of an
earlier person of the same split in which exactly one visible field differs.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "black": (30, 30, 34),
    "white": (236, 236, 232),
    "grey": (132, 134, 138),
    "red": (186, 36, 42),
    "orange": (226, 122, 42),
    "yellow": (230, 202, 66),
    "green": (54, 124, 72),
    "blue": (54, 110, 194),
    "dark_blue": (30, 40, 90),
    "purple": (112, 62, 144),
    "pink": (232, 148, 178),
    "brown": (106, 72, 48),
    "beige": (208, 186, 152),
}
# Of the vocabulary "festival" alone: in no other data set, in colour and in word.
FESTIVAL_COLOURS: dict[str, RGB] = {
    "turquoise": (38, 196, 186),
    "lime": (164, 214, 40),
    "magenta": (206, 36, 140),
    "maroon": (112, 22, 44),
    "mint": (168, 230, 200),
    "lavender": (180, 160, 226),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (26, 23, 24),
    "brown": (84, 54, 36),
    "blond": (206, 172, 104),
    "grey": (164, 162, 160),
    "red": (152, 66, 32),
}
SKIN_TONES: tuple[RGB, ...] = (
    (244, 208, 184),
    (232, 190, 160),
    (214, 164, 130),
    (172, 120, 86),
    (128, 84, 58),
    (96, 62, 44),
)
OPEN_TOPS = frozenset({"jacket", "blazer", "coat"})  # worn open over an inner garment
NEAR_TWIN_EVERY = 4


@dataclasses.dataclass(frozen=True)
class Identity:
    """One person. Colours of absent things are kept: they count only once the thing is worn."""

    gender: str
    build: str
    hair: str
    hair_colour: str
    top: str
    sleeves: str
    top_colour: str
    pattern: str
    pattern_colour: str
    inner_colour: str
    bottom: str
    bottom_colour: str
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    hat: str
    hat_colour: str
    glasses: str
    scarf: str
    scarf_colour: str
    held: str
    skin: int
    tint_seed: int

    def rgb(self, field: str) -> RGB:
        """Colour of `field` ("top_colour", "hair_colour", "skin"...) in this person's own shade."""
        if field == "skin":
            base = SKIN_TONES[self.skin]
        elif field == "hair_colour":
            base = HAIR_COLOURS[self.hair_colour]
        else:
            base = (COLOURS | FESTIVAL_COLOURS)[getattr(self, field)]
        rng = random.Random(f"{self.tint_seed}/{field}")
        # Greys stay grey and skin stays skin; strong colours may drift in hue.
        light, spread = rng.gauss(0, 9), 6.0 if max(base) - min(base) > 60 else 2.5
        r, g, b = (min(250, max(12, round(c + light + rng.gauss(0, spread)))) for c in base)
        return r, g, b


def _even(*values: str) -> dict[str, float]:
    return dict.fromkeys(values, 1.0)


def _colours(*, favourites: tuple[str, ...] = (), exclude: str = "") -> dict[str, float]:
    weights = {c: 3.0 if c in favourites else 1.0 for c in COLOURS}
    weights.pop(exclude, None)
    return weights


def _hair_options(a: dict) -> dict[str, float]:
    if a["gender"] == "woman":
        return {"long": 4, "ponytail": 3, "bun": 1.5, "shoulder": 2.5, "short": 1, "curly": 1}
    return {"short": 7, "bald": 1, "shoulder": 0.7, "curly": 1.3}


def _top_options(a: dict) -> dict[str, float]:
    tops = {
        "t_shirt": 4, "shirt": 3, "sweater": 2.5, "hoodie": 2, "jacket": 2.5, "coat": 1.5,
        "down_jacket": 1.2, "blazer": 1.2, "tank_top": 0.8,
    }  # fmt: skip
    return tops | {"dress": 2.5} if a["gender"] == "woman" else tops


def _sleeve_options(a: dict) -> dict[str, float]:
    top = a["top"]
    if top == "t_shirt":
        return _even("short")
    if top == "tank_top":
        return _even("none")
    if top == "shirt":
        return {"short": 1, "long": 2}
    if top == "dress":
        return {"none": 1.5, "short": 1.5, "long": 1}
    return _even("long")


def _pattern_options(a: dict) -> dict[str, float]:
    top = a["top"]
    if top in {"t_shirt", "sweater"}:
        return {"plain": 4, "striped": 2.5, "print": 3}
    if top == "shirt":
        return {"plain": 4, "striped": 2, "checked": 3}
    if top == "dress":
        return {"plain": 4, "striped": 1, "dotted": 2, "checked": 1}
    if top == "hoodie":
        return {"plain": 3, "print": 2}
    if top == "coat":
        return {"plain": 5, "checked": 1}
    return {"plain": 4, "striped": 1} if top == "tank_top" else _even("plain")


def _bottom_options(a: dict) -> dict[str, float]:
    if a["top"] == "dress":
        return _even("none")
    if a["gender"] == "woman":
        return {"jeans": 3, "trousers": 2, "shorts": 1.5, "skirt": 2.5, "leggings": 1.5}
    return {"jeans": 3, "trousers": 3, "shorts": 2, "sweatpants": 1.5}


def _bottom_colour_options(a: dict) -> dict[str, float]:
    if a["bottom"] == "jeans":
        return {"blue": 4, "dark_blue": 4, "black": 3, "grey": 2, "white": 1}
    return _colours(favourites=("black", "grey", "dark_blue", "beige", "brown"))


def _shoes_options(a: dict) -> dict[str, float]:
    if a["gender"] == "woman":
        return {"sneakers": 4, "boots": 2, "sandals": 1.5, "high_heels": 1.5}
    return {"sneakers": 5, "boots": 1.5, "sandals": 1, "leather_shoes": 2.5}


def _shoes_colour_options(a: dict) -> dict[str, float]:
    if a["shoes"] == "leather_shoes":
        return {"black": 2, "brown": 1.5}
    return _colours(favourites=("black", "white", "grey", "brown"))


def _bag_options(a: dict) -> dict[str, float]:
    bags = {"none": 4, "backpack": 4, "shoulder_bag": 2.5, "shopping_bag": 1.5, "suitcase": 0.8}
    return bags | {"handbag": 2.5} if a["gender"] == "woman" else bags


# Field -> weights of its values given the fields before it; the order is the order of drawing.
Options = dict[str, Callable[[dict], dict[str, float]]]
STREET: Options = {
    "gender": lambda a: _even("man", "woman"),
    "build": lambda a: {"slim": 1, "average": 2, "heavy": 1},
    "hair": _hair_options,
    "hair_colour": lambda a: {"black": 4, "brown": 3, "blond": 2, "grey": 1, "red": 1},
    "top": _top_options,
    "sleeves": _sleeve_options,
    "top_colour": lambda a: _colours(favourites=("black", "white")),
    "pattern": _pattern_options,
    "pattern_colour": lambda a: _colours(favourites=("white",), exclude=a["top_colour"]),
    "inner_colour": lambda a: _colours(favourites=("white", "black"), exclude=a["top_colour"]),
    "bottom": _bottom_options,
    "bottom_colour": _bottom_colour_options,
    "shoes": _shoes_options,
    "shoes_colour": _shoes_colour_options,
    "bag": _bag_options,
    "bag_colour": lambda a: _colours(favourites=("black", "brown")),
    "hat": lambda a: {"none": 7, "cap": 1.5, "beanie": 1, "sun_hat": 0.7},
    "hat_colour": lambda a: _colours(),
    "glasses": lambda a: {"none": 6, "glasses": 2, "sunglasses": 1},
    "scarf": lambda a: _even("none") if a["sleeves"] != "long" else {"none": 5, "scarf": 1},
    "scarf_colour": lambda a: _colours(exclude=a["top_colour"]),
    "held": lambda a: {"none": 6, "phone": 1, "umbrella": 1, "cup": 1, "book": 1, "bottle": 1},
}
# How often a near twin differs in each field (fields not named never differ).
_TWIN_WEIGHTS = {
    "hair": 1, "hair_colour": 1.5, "top": 1.5, "sleeves": 1, "top_colour": 4, "pattern": 2,
    "pattern_colour": 1.5, "inner_colour": 1.5, "bottom": 2, "bottom_colour": 4, "shoes": 1,
    "shoes_colour": 2.5, "bag": 2.5, "bag_colour": 3, "hat": 1.5, "hat_colour": 2, "glasses": 0.5,
    "scarf": 1, "scarf_colour": 1.5, "held": 1,
}  # fmt: skip


def is_visible(identity: Identity, field: str) -> bool:
    """Whether `field` has any effect on the picture (the colour of an absent bag has none)."""
    match field:
        case "hair_colour":
            return identity.hair != "bald"
        case "pattern_colour":
            return identity.pattern != "plain"
        case "inner_colour":
            return identity.top in OPEN_TOPS
        case "bottom_colour" | "bag_colour" | "hat_colour" | "scarf_colour":
            return getattr(identity, field.removesuffix("_colour")) != "none"
    return True


def is_near_twin(index: int) -> bool:
    """Whether person `index` of a split is a copy of an earlier one with one field changed."""
    return index % NEAR_TWIN_EVERY == NEAR_TWIN_EVERY - 1


def sample_identity(seed: int, split: str, index: int, options: Options = STREET) -> Identity:
    """Person `index` (0-based) of `split`: a pure function of the arguments."""
    rng = random.Random(f"identity/{seed}/{split}/{index}")
    if is_near_twin(index):
        originals = [i for i in range(max(0, index - 400), index) if not is_near_twin(i)]
        return _near_twin(
            sample_identity(seed, split, rng.choice(originals), options), rng, options
        )
    chosen: dict = {}
    for field, weights in options.items():
        chosen[field] = _draw(weights(chosen), rng)
    return Identity(**chosen, skin=rng.randrange(len(SKIN_TONES)), tint_seed=rng.getrandbits(32))


def _draw(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _near_twin(original: Identity, rng: random.Random, options: Options) -> Identity:
    """Redraws one visible field until the result is a possible person that differs."""
    while True:
        field = _draw(_TWIN_WEIGHTS, rng)
        value = _draw(options[field](dataclasses.asdict(original)), rng)
        twin = dataclasses.replace(original, **{field: value})
        if twin != original and is_visible(original, field) and _is_consistent(twin, options):
            return twin


def _is_consistent(identity: Identity, options: Options) -> bool:
    values = dataclasses.asdict(identity)
    return all(values[field] in weights(values) for field, weights in options.items())
