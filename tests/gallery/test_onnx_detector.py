"""Detectors from ONNX files, on tiny models whose answer is known."""

import sys

import numpy as np
import pytest

from tipr_jax.gallery.detect import make_detector
from tipr_jax.gallery.detection import Detection, Frame
from tipr_jax.gallery.store import Box

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'tipr_jax[twin]'")
pytest.importorskip("onnxruntime", reason="not installed: pip install 'tipr_jax[onnx]'")

FLOAT, BYTES = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
SIDE = 64  # of the input
FRAME = Frame(np.full((200, 400, 3), (255, 128, 0), np.uint8))


def write(path, outputs, shape=(1, 3, SIDE, SIDE), kind=FLOAT):
    """A model that answers with the arrays `outputs`, plus 0 times its input's mean."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["input"], ["float"], to=FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [onnx.numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    for name, value in outputs.items():
        constants.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), f"_{name}"))
        nodes.append(helper.make_node("Add", [f"_{name}", "nothing"], [name]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info(n, FLOAT, np.shape(v)) for n, v in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return make_detector(f"onnx:{path}")


def test_rf_detr(tmp_path):
    # Centre and size as fractions of the picture; logits of 91 classes, 1 is a person.
    dets = np.array([[[0.25, 0.5, 0.1, 0.5], [0.5, 0.5, 0.1, 0.5], [0.75, 0.5, 0.1, 0.5]]])
    labels = np.full((1, 3, 91), -9.0)
    labels[0, 0, 1], labels[0, 1, 0], labels[0, 2, 1] = 1.0, 5.0, 2.0  # the second is no person
    detector = write(tmp_path / "detr.onnx", {"dets": dets, "labels": labels})
    (found,) = detector.detect([FRAME])
    assert [d.box for d in found] == [Box(280, 50, 40, 100), Box(80, 50, 40, 100)]
    assert [d.score for d in found] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))])
    assert detector.name.startswith("onnx:") and len(detector.name) < 20


@pytest.mark.parametrize("scale", [1, SIDE])
@pytest.mark.parametrize("classes", [None, 1, 80])
@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 3, SIDE, SIDE), FLOAT), ((1, SIDE, SIDE, 3), BYTES)]
)
def test_boxes_and_scores_in_pixels_or_fractions(tmp_path, scale, classes, shape, kind):
    boxes = np.array([[0.2, 0.25, 0.3, 0.75], [0.21, 0.25, 0.31, 0.75], [0.6, 0.25, 0.7, 0.75]])
    scores = np.array([0.5, 0.9, 0.3])  # the first is the second again, the third is not sure
    if classes:
        scores = np.concatenate([scores[:, None], np.ones((3, classes - 1))], axis=1)
    outputs = {"boxes": boxes[None] * scale, "scores": scores[None]}
    detector = write(tmp_path / "any.onnx", outputs, shape, kind)
    (found,) = detector.detect([FRAME])
    assert found == [Detection(Box(84, 50, 40, 100), pytest.approx(0.9))]
    assert write(tmp_path / "none.onnx", {"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}).detect(
        [FRAME, FRAME]
    ) == [[], []]


def test_small_and_wide_boxes_are_no_people(tmp_path):
    boxes = np.array([[0.1, 0.1, 0.15, 0.29], [0.1, 0.5, 0.9, 0.9], [0.5, 0.1, 0.55, 0.31]])
    detector = write(tmp_path / "any.onnx", {"boxes": boxes, "scores": np.ones(3)})
    assert [d.box for d in detector.detect([FRAME])[0]] == [Box(200, 20, 20, 42)]


def test_what_the_network_is_given(tmp_path):
    detector = write(tmp_path / "any.onnx", {"boxes": np.zeros((1, 4)), "scores": np.zeros(1)})
    small = np.full((2, 2, 3), (255, 128, 0), np.uint8)
    plain = detector._prepared(small, detr=False)
    assert plain.shape == (1, 3, 2, 2) and plain.dtype == np.float32
    np.testing.assert_allclose(plain[0, :, 0, 0], [1, 128 / 255, 0], rtol=1e-6)
    detr = detector._prepared(small, detr=True)
    want = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    np.testing.assert_allclose(detr[0, :, 0, 0], want, rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "options"),
    [
        ({"out": np.zeros((1, 5))}, {}),
        ({"boxes": np.zeros((1, 4))}, {}),
        ({"boxes": np.zeros((1, 4)), "scores": np.zeros(1)}, {"shape": (1, SIDE, SIDE, 3)}),
        ({"boxes": np.zeros((1, 4)), "scores": np.zeros(1)}, {"shape": (1, 3, "h", "w")}),
        ({"boxes": np.zeros((1, 4)), "scores": np.zeros(1)}, {"shape": (1, SIDE)}),
    ],
)
def test_another_kind_of_model(tmp_path, outputs, options):
    with pytest.raises(
        ValueError, match=r"a.onnx: takes tensor\(float\) .*; expected float32"
    ) as e:
        write(tmp_path / "a.onnx", outputs, **options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("data", [b"", b"no model", bytes(100)])
def test_no_model_at_all(tmp_path, data):
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(ValueError, match="a.onnx: not an ONNX model that can be run") as error:
        make_detector(f"onnx:{tmp_path / 'a.onnx'}")
    assert "\n" not in str(error.value)


def test_without_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tipr_jax\[onnx\]'"):
        make_detector(f"onnx:{tmp_path / 'a.onnx'}")
