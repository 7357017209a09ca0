"""Clothes that the usual people never wear, in other colours and other words.

For fine-tuning on data that a model has not seen: whoever learned from the usual people knows
neither the garments nor their names. Hair, bags and other small things are the usual ones.
"""

from __future__ import annotations

from data_pipelines.synth_pedes.attributes import FESTIVAL_COLOURS, STREET, Options

_SLEEVES = {"poncho": "none", "tunic": "long", "jersey": "short", "kimono": "long"}


def _colours(exclude: str = "") -> dict[str, float]:
    return {name: 1.0 for name in FESTIVAL_COLOURS if name != exclude}


FESTIVAL: Options = STREET | {
    "top": lambda a: dict.fromkeys(_SLEEVES, 1.0),
    "sleeves": lambda a: {_SLEEVES[a["top"]]: 1.0},
    "top_colour": lambda a: _colours(),
    "pattern": lambda a: {"plain": 1.0, "zigzag": 1.0},
    "pattern_colour": lambda a: _colours(exclude=a["top_colour"]),
    "bottom": lambda a: {"kilt": 1.0, "harem_pants": 1.0, "culottes": 1.0},
    "bottom_colour": lambda a: _colours(),
    "shoes_colour": lambda a: _colours(),
    "bag_colour": lambda a: _colours(),
    "hat_colour": lambda a: _colours(),
    "scarf_colour": lambda a: _colours(exclude=a["top_colour"]),
}
VOCABULARIES = {"street": STREET, "festival": FESTIVAL}
