"""The released IVT's rules for captions of more than 90 words."""

import pytest

from data_pipelines.datasets import annotations
from data_pipelines.datasets.layouts import LAYOUTS
from data_pipelines.datasets.long_captions import shorten

WORDS = [f"w{i}" for i in range(200)]


def entry(*lengths: int, **more) -> dict:
    return {"captions": [" ".join(WORDS[:n]) for n in lengths]} | more


def captions(entries: list[dict]) -> list[list[int]]:
    return [[len(caption.split()) for caption in e["captions"]] for e in entries]


def test_rstp_leaves_them_out():
    entries = [entry(90, 91), entry(12), entry(150)]
    found = shorten(entries, LAYOUTS["rstp_reid"], "within_90_words")
    assert captions(found) == [[90], [12]]  # an image without a caption is no test item either


def test_icfg_cuts_them():
    found = shorten([entry(150), entry(90)], LAYOUTS["icfg_pedes"], "within_90_words")
    assert captions(found) == [[90], [90]]


def test_icfg_cuts_at_the_first_place_of_the_91st_word():
    """A released quirk: that word may stand much earlier."""
    words = ["a", "man", "in", "red"] + WORDS[:86] + ["in", "the", "end"]
    assert words[90] == "in"
    found = shorten([{"captions": [" ".join(words)]}], LAYOUTS["icfg_pedes"], "within_90_words")
    assert found[0]["captions"] == ["a man "]


def test_words_are_those_of_the_file_where_it_has_them():
    long = entry(80, processed_tokens=[["a", ","] * 46])
    assert shorten([long], LAYOUTS["rstp_reid"], "within_90_words") == []
    assert shorten(
        [entry(95, processed_tokens=[WORDS[:30]])], LAYOUTS["rstp_reid"], "within_90_words"
    )


@pytest.mark.parametrize(
    ("name", "policy"), [("cuhk_pedes", "within_90_words"), ("rstp_reid", "whole")]
)
def test_others_stay_whole(name, policy):
    entries = [entry(150, 3)]
    assert shorten(entries, LAYOUTS[name], policy) == entries


def test_it_is_a_field_of_the_config(write_layout, tiny_entries):
    entries = tiny_entries("rstp_reid")
    entries[0]["captions"] = [" ".join(WORDS), "short"]
    root = str(write_layout("rstp_reid", entries, images=False))
    whole = annotations.load_dataset("rstp_reid", root)
    within = annotations.load_dataset("rstp_reid", root, long_captions="within_90_words")
    total = lambda splits: sum(len(split.caption) for split in splits.values())  # noqa: E731
    assert total(within) == total(whole) - 1
    with pytest.raises(ValueError, match="long_captions is 'drop'"):
        annotations.load_dataset("rstp_reid", root, long_captions="drop")
