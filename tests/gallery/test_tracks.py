"""Boxes of consecutive frames become tracks, and a track keeps its best crop: cases by hand."""

import numpy as np
import pytest

from tipr_jax.gallery import tracks
from tipr_jax.gallery.detection import Detection, Frame
from tipr_jax.gallery.store import Box
from tipr_jax.gallery.tracks import Tracker

SIZE = (100, 200)


def frame(seconds):
    """A frame whose pixels say at which tenth of a second it is."""
    pixels = np.full((*SIZE, 3), round(seconds * 10), np.uint8)
    return Frame(pixels, "walk.mp4", round(seconds * 10), seconds)


def person(x, y=20, width=20, height=40, score=0.5, track=None):
    return Detection(Box(x, y, width, height), score, track)


def run(steps):
    """steps: [(seconds, detections)]. All that comes out: [(track, seconds, box)]."""
    tracker, out = Tracker(2.0), []
    for seconds, found in steps:
        out += tracker.update(frame(seconds), found)
    out += tracker.finish()
    for crop in out:
        assert crop.pixels.shape == (crop.box.height, crop.box.width, 3)
        assert (crop.pixels == round(crop.seconds * 10)).all()
    return [(crop.track, crop.seconds, crop.box) for crop in out]


def test_somebody_who_walks_is_one_track_and_the_largest_sure_box_is_kept():
    steps = [
        (0.0, [person(20)]),
        (0.1, [person(24, height=44, score=0.6)]),
        (0.2, [person(28, height=42, score=0.6)]),
    ]
    assert run(steps) == [(1, 0.1, Box(23, 20, 22, 44))]


def test_a_whole_person_is_better_than_a_larger_one_at_the_border():
    steps = [
        (0.0, [person(0, height=60, width=30, score=1.0)]),
        (0.1, [person(5, height=40, width=30, score=0.4)]),
    ]
    assert [seconds for _, seconds, _ in run(steps)] == [0.1]
    assert [seconds for _, seconds, _ in run(steps[:1])] == [0.0]  # better than nobody


def test_a_jump_begins_a_track():
    # Boxes 20 wide: moved by 13 they share 7 of 33 = 0.21, by 14 they share 6 of 34 = 0.18.
    assert [t for t, *_ in run([(0.0, [person(20)]), (0.1, [person(33)])])] == [1]
    assert [t for t, *_ in run([(0.0, [person(20)]), (0.1, [person(34)])])] == [1, 2]


def test_somebody_is_expected_where_they_would_have_walked_to():
    walk = [(0.0, [person(20)]), (0.1, [person(30)]), (0.2, [person(40)])]
    # Half of 100 pixels a second after the first step, 75 after the second. In 0.4 s that leads to
    # 70; the box at 80 shares 10 of 30 with it, and nothing with the last one.
    assert [t for t, *_ in run([*walk, (0.6, [person(80)])])] == [1]
    assert [t for t, *_ in run([*walk, (0.6, [person(40)])])] == [1, 2]


def test_two_who_pass_each_other_keep_their_tracks():
    steps = [(n / 10, [person(20 + 8 * n), person(100 - 8 * n)]) for n in range(9)]
    steps += [(0.9, [person(20, score=0.9), person(92, score=0.9)])]
    assert {t: box.x for t, _, box in run(steps)} == {1: 92, 2: 20}


def test_the_best_pair_is_joined_first_whatever_the_order():
    first = [person(20), person(32)]
    # The box at 30 shares 18 of 22 with the one at 32; the one at 22 is left to track 1.
    for second in ([person(30, score=0.9), person(22, score=0.9)],) * 2:
        assert {t: box.x for t, _, box in run([(0.0, first), (0.1, second)])} == {1: 22, 2: 30}
        second.reverse()


def test_one_track_takes_one_box_of_a_frame():
    assert [t for t, *_ in run([(0.0, [person(20)]), (0.1, [person(20), person(21)])])] == [1, 2]


def test_hidden_for_a_moment_is_the_same_track_and_gone_for_long_is_another():
    later = tracks.PATIENCE_S
    assert [t for t, *_ in run([(0.0, [person(20)]), (later, [person(20)])])] == [1]
    steps = [(0.0, [person(20)]), (later + 0.1, []), (later + 0.2, [person(20)])]
    assert [t for t, *_ in run(steps)] == [1, 2]


def test_a_crop_is_given_back_as_soon_as_its_track_has_ended():
    tracker = Tracker(2.0)
    assert tracker.update(frame(0.0), [person(20)]) == []
    assert tracker.update(frame(tracks.PATIENCE_S), []) == []
    (crop,) = tracker.update(frame(tracks.PATIENCE_S + 0.1), [])
    assert (crop.track, crop.seconds, crop.score) == (1, 0.0, 0.5)
    assert tracker.finish() == []


def test_a_long_track_has_a_crop_of_every_span():
    step = 0.5
    count = int(2.5 * tracks.SPAN_S / step)
    # Twice the score in the last frame of each span.
    per_span = int(tracks.SPAN_S / step)
    found = [[person(20, score=0.8 if n % per_span == per_span - 1 else 0.4)] for n in range(count)]
    out = run([(n * step, f) for n, f in enumerate(found)])
    assert [t for t, *_ in out] == [1, 1, 1]
    assert [s for _, s, _ in out[:2]] == [tracks.SPAN_S - step, 2 * tracks.SPAN_S - step]


def test_tracks_that_are_given_are_kept():
    steps = [
        (0.0, [person(20, track=7), person(60, track=3)]),
        (0.1, [person(60, track=7), person(20, track=3)]),  # whatever the boxes say
        (0.2, [person(150, track=7, score=0.9)]),
    ]
    out = run(steps)
    assert sorted((t, s) for t, s, _ in out) == [(3, 0.0), (7, 0.2)]


def test_two_frames_at_one_time_and_a_step_back_in_time():
    steps = [(0.0, [person(20)]), (0.1, [person(22)]), (0.1, [person(24)]), (0.05, [person(24)])]
    assert [t for t, *_ in run(steps)] == [1]


def test_nobody():
    assert run([(0.0, []), (0.1, []), (5.0, [])]) == []


def test_crops_do_not_keep_frames_in_memory():
    (crop,) = [*Tracker(2.0).update(frame(0.0), [person(20)]), *_finished(person(20))]
    assert crop.pixels.base is None or crop.pixels.base.nbytes == crop.pixels.nbytes


def _finished(detection):
    tracker = Tracker(2.0)
    tracker.update(frame(0.0), [detection])
    return tracker.finish()


@pytest.mark.parametrize("aspect", [1.0, 2.0, 3.0])
def test_crops_have_the_shape_that_is_asked_for(aspect):
    tracker = Tracker(aspect)
    tracker.update(frame(0.0), [person(80, y=30, width=20, height=30)])
    (crop,) = tracker.finish()
    assert abs(crop.box.height / crop.box.width - aspect) < 0.1
