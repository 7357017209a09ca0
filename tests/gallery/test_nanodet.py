"""NanoDet-g: its operators, its decoding by hand, and what it finds in a real recording.

The recording is vtest.avi of OpenCV's documentation (PETS 2009, 768 x 576), which Debian packages.
"""

import gzip
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tipr_jax.gallery import nanodet, nanodet_graph, nanodet_weights, video
from tipr_jax.gallery.boxes import corners, overlaps
from tipr_jax.gallery.detect import make_detector
from tipr_jax.gallery.detection import Frame, people_of
from tipr_jax.gallery.nanodet import DISTANCES, SIDE, decode
from tipr_jax.gallery.tracks import Tracker
from tipr_jax.preprocess.box import Box, crop


def run(op, attributes, *inputs):
    return np.asarray(nanodet_graph.OPERATORS[op](attributes, *inputs))


SQUARE = jnp.arange(16, dtype=jnp.float32).reshape(1, 4, 4, 1)
PLAIN = {"strides": [1, 2, 2, 1], "padding": "SAME", "dilations": [1, 1, 1, 1]}


def test_padding_same_begins_where_tensorflow_does():
    # 4 cells, a window of 3, steps of 2: one zero at the end, none at the start.
    got = run("Conv2D", PLAIN, SQUARE, jnp.ones((3, 3, 1, 1)))[0, ..., 0]
    np.testing.assert_array_equal(got, [[45, 39], [66, 50]])


def test_a_kernel_that_looks_into_the_distance():
    attributes = PLAIN | {"padding": "VALID", "strides": [1, 1, 1, 1], "dilations": [1, 3, 3, 1]}
    got = run("Conv2D", attributes, SQUARE, jnp.ones((2, 2, 1, 1)))
    assert got.tolist() == [[[[0 + 3 + 12 + 15]]]]  # the four corners


def test_paddings_and_parts():
    line = jnp.array([1.0, 2.0, 3.0])
    widths = np.array([[1, 2]])
    assert run("Pad", {}, line, widths).tolist() == [0, 1, 2, 3, 0, 0]
    assert run("PadV2", {}, line, widths, jnp.float32(-9)).tolist() == [-9, 1, 2, 3, -9, -9]
    parts = nanodet_graph.OPERATORS["SplitV"]({}, SQUARE, np.array([1, 3]), np.array(2))
    assert [part.shape for part in parts] == [(1, 4, 1, 1), (1, 4, 3, 1)]
    assert parts[1][0, 0, :, 0].tolist() == [1, 2, 3]
    places = np.array([[2], [0]])
    dense = run("SparseToDense", {}, places, np.array([4]), np.array([7, 5]), np.array(-1))
    assert dense.tolist() == [5, -1, 7, -1]
    assert run("SparseToDense", {}, places[:0], np.array([2]), places[:0, 0], 0).tolist() == [0, 0]


def test_the_outputs_are_what_no_other_node_takes():
    nodes = [
        nanodet_graph.Node("given", "Placeholder", (), {}),
        nanodet_graph.Node("parts", "SplitV", (("given", 0), ("sizes", 0), ("axis", 0)), {}),
        nanodet_graph.Node("last", "Identity", (("parts", 1),), {}),
        nanodet_graph.Node("first", "Add", (("parts", 0), ("weight", 0)), {}),
    ]
    weights = {"sizes": np.array([1, 2]), "axis": np.array(0), "weight": jnp.float32(10)}
    last, first = nanodet_graph.run(tuple(nodes), weights, jnp.array([1.0, 2.0, 3.0]))
    assert last.tolist() == [2, 3] and first.tolist() == [11]


def test_the_published_form_is_read(tmp_path):
    """A package with two weights, one in float16, and three nodes in no order."""
    weights = [
        {"name": "k", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "s", "shape": [1], "dtype": "int32"},
    ]
    strides = {"list": {"i": ["1", "2"]}}
    nodes = [
        {"name": "out", "op": "Add", "input": ["part:1", "k"], "attr": {"T": {"type": "DT_FLOAT"}}},
        {"name": "k", "op": "Const", "attr": {}},
        {"name": "s", "op": "Const", "attr": {}},
        {
            "name": "part",
            "op": "SplitV",
            "input": ["in", "s"],
            "attr": {"padding": {"s": "VkFMSUQ="}, "strides": strides, "alpha": {"f": 0.1}},
        },
        {"name": "in", "op": "Placeholder", "attr": {}},
    ]
    models = tmp_path / "package" / "models"
    models.mkdir(parents=True)
    (models.parent / "LICENSE").write_text("MIT License, of somebody")
    data = np.array([0.5, -2], np.float16).tobytes() + np.array([3], np.int32).tobytes()
    (models / "nanodet.bin").write_bytes(data)
    manifest = [{"paths": ["nanodet.bin"], "weights": weights}]
    model = {"modelTopology": {"node": nodes}, "weightsManifest": manifest}
    (models / "nanodet.json").write_text(json.dumps(model))
    nanodet_weights.convert(models.parent, tmp_path / "out")
    graph = nanodet_graph.read(tmp_path / "out" / "graph.json")
    assert [node.name for node in graph] == ["in", "part", "out"]
    assert graph[1].attributes == {"padding": "VALID", "strides": [1, 2], "alpha": 0.1}
    assert graph[2].inputs == (("part", 1), ("k", 0))
    read = load_file(tmp_path / "out" / "weights.safetensors")
    assert read["k"].tolist() == [0.5, -2] and read["s"].tolist() == [3]
    assert "somebody" in (tmp_path / "out" / "LICENSE.human-models").read_text()
    assert "Apache License 2.0" in (tmp_path / "out" / "NOTICE").read_text()
    (models / "nanodet.bin").write_bytes(data + b"more")
    with pytest.raises(ValueError, match="12 bytes of weights, expected 8"):
        nanodet_weights.convert(models.parent, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_largest_of_a_window():
    attributes = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}
    np.testing.assert_array_equal(run("MaxPool", attributes, SQUARE)[0, ..., 0], [[5, 7], [13, 15]])


def test_resize_looks_at_the_middles_of_pixels_and_does_not_smooth():
    line = jnp.array([0.0, 8.0]).reshape(1, 1, 2, 1)
    got = run("ResizeBilinear", {"half_pixel_centers": True}, line, np.array([1, 4]))
    np.testing.assert_allclose(got.ravel(), [0, 2, 6, 8])
    # A half as many: the mean of two neighbours; antialiasing would take in four.
    line = jnp.array([0.0, 8.0, 0.0, 0.0]).reshape(1, 1, 4, 1)
    got = run("ResizeBilinear", {"half_pixel_centers": True}, line, np.array([1, 2]))
    np.testing.assert_allclose(got.ravel(), [4, 0])


def outputs(stride, cell, distances, score):
    """The network's answer for one person in one cell: distances in cells to the four sides."""
    by_stride = []
    for s in nanodet.STRIDES:
        count = (SIDE // s) ** 2
        scores = np.zeros((1, count, 80), np.float32)
        logits = np.zeros((1, count, 4 * DISTANCES), np.float32)
        if s == stride:
            scores[0, cell, 0] = score
            scores[0, :, 1:] = 1  # a bicycle everywhere
            for side, distance in enumerate(distances):
                # Two bins with the same large logit: the mean of both.
                for near in (int(np.floor(distance)), int(np.ceil(distance))):
                    logits[0, cell, side * DISTANCES + near] = 60
        by_stride += [scores, logits]
    return by_stride[::-1]  # the order does not matter


@pytest.mark.parametrize(
    ("stride", "cell", "distances", "want"),
    [
        (8, 0, (0, 0, 2, 6), (4, 4, 20, 52)),
        (8, 52 * 10 + 20, (1.5, 3, 2, 6.5), (152, 60, 180, 136)),
        (16, 26 * 3 + 1, (1, 2, 2, 5), (8, 24, 56, 136)),
        (32, 13 * 12 + 12, (2, 10, 0, 0), (336, 80, 400, 400)),
    ],
)
def test_decoding_by_hand(stride, cell, distances, want):
    boxes, scores = map(np.asarray, decode(outputs(stride, cell, distances, 0.75)))
    assert len(boxes) == 52**2 + 26**2 + 13**2 == len(scores)
    (number,) = np.flatnonzero(scores)
    assert scores[number] == 0.75
    np.testing.assert_allclose(boxes[number], want, atol=1e-3)


def test_blue_comes_first_and_has_its_own_mean():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[1, 2] = (255, 128, 64)  # red, green, blue
    given = np.asarray(nanodet.normalise(pixels))
    assert given.shape == (1, 3, 2, 3) and given.dtype == np.float32
    want = [(64 - 103.53) / 57.375, (128 - 116.28) / 57.12, (255 - 123.675) / 58.395]
    np.testing.assert_allclose(given[0, :, 1, 2], want, rtol=1e-5)
    np.testing.assert_allclose(given[0, :, 0, 0], [-1.80444, -2.03571, -2.11790], rtol=1e-5)


def test_boxes_are_those_of_the_frame_and_only_people():
    frame = Frame(np.zeros((832, 416, 3), np.uint8))  # twice as high as the network's picture
    boxes = np.array(
        [
            [10, 10, 40, 60],
            [12, 10, 42, 60],
            [100, 10, 180, 40],
            [200, 10, 210, 29],
            [300, 10, 330, 60],
        ]
    )
    scores = np.array([0.5, 0.8, 0.9, 0.9, 0.39])
    found = people_of(boxes / nanodet.SIDE, scores, nanodet.LEAST_SCORE, frame)
    # The first is the second again; 80 x 60 is too wide, 10 x 38 too low, the last not sure.
    assert [(d.box, d.score) for d in found] == [(Box(12, 20, 30, 100), 0.8)]


def test_an_unknown_operator_is_named(tmp_path):
    (tmp_path / "graph.json").write_text('[{"name": "a", "op": "Einsum", "inputs": []}]')
    with pytest.raises(ValueError, match="operator Einsum is not known"):
        nanodet_graph.read(tmp_path / "graph.json")


# ------------------------------------------------------------------- real weights, a real recording


@pytest.fixture(scope="module")
def detector():
    """The real weights, fetched if need be."""
    if not (nanodet_weights.directory() / nanodet_weights.WEIGHTS).is_file():
        if not shutil.which("npm"):
            pytest.skip("no weights of NanoDet and no npm to fetch them")
        script = Path(__file__).parents[2] / "scripts" / "get_detector.sh"
        done = subprocess.run([script], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"scripts/get_detector.sh: {done.stderr[-300:]}")
    return make_detector("nanodet")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """vtest.avi out of Debian's opencv-doc."""
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'tipr_jax[video]'")
    installed = sorted(Path("/usr/share/doc/opencv-doc").rglob("vtest.avi*"))
    folder = tmp_path_factory.mktemp("opencv")
    if not installed:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            pytest.skip("vtest.avi is in Debian's opencv-doc, and there is no apt-get")
        done = subprocess.run(
            ["apt-get", "download", "opencv-doc"], cwd=folder, capture_output=True, text=True
        )
        packages = list(folder.glob("*.deb"))
        if not packages:
            pytest.skip(f"apt-get download opencv-doc: {done.stderr[-300:]}")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
        installed = sorted(folder.rglob("vtest.avi*"))
    path = folder / "vtest.avi"
    data = installed[0].read_bytes()
    path.write_bytes(gzip.decompress(data) if installed[0].suffix == ".gz" else data)
    return path


# The six people of frame 320, by eye.
PEOPLE = [
    Box(202, 174, 26, 66), Box(258, 197, 24, 82), Box(301, 168, 32, 82),
    Box(432, 150, 22, 53), Box(599, 183, 26, 84), Box(630, 183, 24, 80),
]  # fmt: skip


def test_five_of_six_people_are_found_in_a_real_picture(detector, recording):
    frame = next(f for f in video.frames(recording) if f.number == 320)
    (found,) = detector.detect([frame])
    shared = overlaps(corners(PEOPLE), corners([d.box for d in found]))
    best = shared.argmax(axis=1)
    hits = {int(column) for row, column in enumerate(best) if shared[row, column] >= 0.5}
    assert len(hits) >= 5 and len(found) <= 8
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


def test_frames_together_give_what_each_gives_alone(detector, recording):
    frames = [f for f in video.frames(recording, every=5.0)][:3]
    together = detector.detect(frames)
    for frame, found in zip(frames, together, strict=True):
        (alone,) = detector.detect([frame])
        assert [d.box for d in alone] == [d.box for d in found]
    assert any(together)


def test_tracks_of_a_real_recording(detector, recording):
    """The first eight seconds."""
    first = itertools.takewhile(lambda f: f.seconds < 8, video.frames(recording, detector.every))
    tracker, people, boxes = Tracker(3.0), [], 0
    for frame in first:
        (found,) = detector.detect([frame])
        boxes += len(found)
        people += tracker.update(frame, found)
    people += tracker.finish()
    tracks = {person.track for person in people}
    assert boxes > 100 and 4 <= len(tracks) == len(people) <= boxes / 5
    for person in people[:3]:
        picture = video.frame_at(recording, person.seconds)
        np.testing.assert_array_equal(crop(picture, person.box), person.pixels)
