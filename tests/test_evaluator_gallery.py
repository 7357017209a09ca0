"""Galleries and AP variants of an evaluation, on features that need no model."""

import types

import numpy as np
import pytest

from tipr_jax.evaluator import SplitFeatures, rank


@pytest.fixture
def split():
    """Three images of persons 4, 5, 6 with captions 0-0-1-1-2: the last one's row is even."""
    caption_image_id = np.array([0, 0, 1, 1, 2])
    person = np.array([4, 5, 6])
    return types.SimpleNamespace(
        image_path=("a", "b", "c"),
        image_person_id=person,
        caption_image_id=caption_image_id,
        caption_person_id=person[caption_image_id],
    )


@pytest.fixture
def features(split):
    return SplitFeatures(image=np.eye(3), text=np.eye(3)[split.caption_image_id])


def test_standard_gallery(split, features):
    metrics = rank(features, split)
    for direction in ("t2i", "i2t"):
        assert metrics[direction] == dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), 100.0)


def test_parity_gallery_and_label(split, features):
    metrics = rank(features, split, gallery="every_second_row", trapezoid_ap=True)
    assert metrics["t2i"]["R1"] == 100 and metrics["t2i"]["mAP_trapezoid"] == 100


def test_a_person_that_the_parity_gallery_lacks_is_a_miss(split, features):
    split.caption_image_id = np.array([0, 1, 0, 2, 2])
    split.caption_person_id = split.image_person_id[split.caption_image_id]
    features = features._replace(text=np.eye(3)[split.caption_image_id])
    assert rank(features, split)["t2i"]["R1"] == 100
    parity = rank(features, split, gallery="every_second_row")["t2i"]  # images 0, 0, 2
    assert parity["R1"] == parity["R10"] == 80
