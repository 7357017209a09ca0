"""What the released IVT does to captions of more than 90 words, for parity with its runs.

Source: datasets/icfg_pedes_level.py and rstpreid_level.py of its release.
"""

import logging
from typing import Any

from data_pipelines.datasets.layouts import DatasetLayout

log = logging.getLogger("tipr_jax")

WHOLE, WITHIN_90_WORDS = "whole", "within_90_words"
POLICIES = (WHOLE, WITHIN_90_WORDS)  # values of data.long_captions
RULES = ("leave out", "cut")  # of DatasetLayout.long_captions
LIMIT = 90


def shorten(
    entries: list[dict[str, Any]], layout: DatasetLayout, policy: str
) -> list[dict[str, Any]]:
    """The entries with the data set's rule applied to captions of more than `LIMIT` words.

    "leave out": such captions go, and entries without another one. "cut": they end before the first
    place where their 91st word stands, which may be far ahead of it (a released quirk, kept). Words
    are the entry's processed_tokens where it has them, else what white space separates.

    Raises:
      ValueError: an unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"data.long_captions is {policy!r}, expected one of {POLICIES}")
    if policy == WHOLE or not layout.long_captions:
        return entries
    changed, kept = 0, []
    for entry in entries:
        captions = [
            _shortened(entry, i, layout.long_captions) for i in range(len(entry["captions"]))
        ]
        changed += sum(a != b for a, b in zip(captions, entry["captions"], strict=True))
        if left := [caption for caption in captions if caption is not None]:
            kept.append(entry | {"captions": left})
    if changed:
        log.info("%d captions of more than %d words: %s", changed, LIMIT, layout.long_captions)
    return kept


def _shortened(entry: dict[str, Any], number: int, rule: str) -> str | None:
    caption = entry["captions"][number]
    tokens = entry.get("processed_tokens")
    words = tokens[number] if tokens and len(tokens) == len(entry["captions"]) else caption.split()
    if len(words) <= LIMIT:
        return caption
    if rule == "leave out":
        return None
    return caption[: max(0, caption.find(words[LIMIT]))] or caption
