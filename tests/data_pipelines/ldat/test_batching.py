"""Texts in batches of like length, answered in the order in which they came."""

import pytest

from data_pipelines.ldat.batching import longest_first

TEXTS = ["bb", "a", "dddd", "ccc", "a", "", "eeeee"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_answers_are_in_order_and_batches_are_full_and_sorted(size):
    asked = []

    def ask(texts):
        asked.append(list(texts))
        return [f"<{text}>" for text in texts]

    assert longest_first(TEXTS, size, ask) == [f"<{text}>" for text in TEXTS]
    assert [text for batch in asked for text in batch] == sorted(TEXTS, key=len, reverse=True)
    assert {len(batch) for batch in asked[:-1]} <= {size} and len(asked[-1]) <= size


def test_nothing_asks_for_nothing():
    assert longest_first([], 4, lambda texts: pytest.fail("asked")) == []


def test_too_few_answers_are_noticed():
    with pytest.raises(ValueError, match="shorter"):
        longest_first(TEXTS, 3, lambda texts: ["one"])
