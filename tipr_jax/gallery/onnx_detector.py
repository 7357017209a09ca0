"""A detector from an ONNX file, run by ONNX Runtime (the extra `onnx`).

Two forms are known by the names of their outputs. In both the picture is resized to the input's
height and width, its shape not kept.

RF-DETR, as its package exports it:
  input float32 [1,3,H,W], RGB with ImageNet's mean and deviation
  dets [1,Q,4], centre and size as fractions of the picture
  labels [1,Q,C], logits; a person is COCO's number 1

Any other:
  input uint8 [1,H,W,3], RGB, or float32 [1,3,H,W], RGB from 0 to 1
  boxes [N,4] or [1,N,4], left, top, right, bottom in pixels of the input, or all as fractions
  scores [N], [N,C] or [1,N,C], 0 to 1; a person is class 0

Networks that end before the boxes (YOLOX, NanoDet-plus) need their decoding in the file. Double
boxes are removed here, so a file may leave that out.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tipr_jax.gallery.detection import Detection, Frame, people_of
from tipr_jax.preprocess.image import resize

LEAST_SCORE = 0.4
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
FORMS = ({"dets", "labels"}, {"boxes", "scores"})


class OnnxDetector:
    """The detector `onnx:MODEL.onnx`."""

    every = 0.2  # people move by a tenth of their height

    def __init__(self, session: Any, name: str, path: str):
        self._session, self.name, self.path = session, name, path
        given = session.get_inputs()[0]
        self._input, self._bytes = given.name, given.type == "tensor(uint8)"
        self._height, self._width = given.shape[1:3] if self._bytes else given.shape[2:4]
        self._outputs = [output.name for output in session.get_outputs()]

    @classmethod
    def load(cls, path: str | Path) -> "OnnxDetector":
        """Raises ModuleNotFoundError without ONNX Runtime, ValueError for another kind of file."""
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{path} is run by ONNX Runtime: pip install 'tipr_jax[onnx]'"
            ) from None
        data = Path(path).read_bytes()
        try:
            session = onnxruntime.InferenceSession(data)
        except Exception as error:  # classes of its own, by what is wrong with the file
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: not an ONNX model that can be run ({reason})") from None
        _check(session, path)
        return cls(session, f"onnx:{hashlib.sha256(data).hexdigest()[:12]}", str(path))

    def detect(self, frames: Sequence[Frame]) -> list[list[Detection]]:
        """As `Detector.detect`, a frame at a time."""
        return [self._of(frame) for frame in frames]

    def _of(self, frame: Frame) -> list[Detection]:
        small = resize(frame.pixels, (self._height, self._width))
        detr = "dets" in self._outputs
        values = self._session.run(None, {self._input: self._prepared(small, detr)})
        named = dict(zip(self._outputs, values, strict=True))
        boxes, scores = (_detr if detr else self._plain)(named)
        return people_of(boxes, scores, LEAST_SCORE, frame)

    def _prepared(self, small: np.ndarray, detr: bool) -> np.ndarray:
        if self._bytes:
            return small[None]
        pixels = small.astype(np.float32) / 255
        if detr:
            pixels = (pixels - IMAGENET_MEAN) / IMAGENET_STD
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

    def _plain(self, named: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Corners as fractions of the picture [N,4], scores [N]."""
        boxes = named["boxes"].reshape(-1, 4)
        scores = named["scores"].reshape(len(boxes), -1)[:, 0] if len(boxes) else np.zeros(0)
        if (
            boxes.size and boxes.max() > 2
        ):  # pixels; fractions may reach a little beyond the picture
            boxes = boxes / (self._width, self._height, self._width, self._height)
        return boxes, scores


def _detr(named: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    centre, size = np.split(named["dets"][0], 2, axis=-1)
    logits = named["labels"][0][:, 1]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1), 1 / (
        1 + np.exp(-logits)
    )


def _check(session: Any, path: str | Path) -> None:
    """Raises ValueError for a model of neither form, naming what it has."""
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    shape, kind = inputs[0].shape, inputs[0].type
    pixels = (shape[3:] if kind == "tensor(uint8)" else shape[1:2]) == [3]
    sides = shape[1:3] if kind == "tensor(uint8)" else shape[2:4]
    fixed = all(isinstance(side, int) for side in sides) and len(sides) == 2
    known = kind in ("tensor(uint8)", "tensor(float)") and len(shape) == 4
    if len(inputs) != 1 or not (known and pixels and fixed) or not any(f <= outputs for f in FORMS):
        raise ValueError(
            f"{path}: takes {kind} {shape} and gives {', '.join(sorted(outputs))}; expected "
            "float32 [1,3,H,W] or uint8 [1,H,W,3] and the outputs dets and labels (RF-DETR), or "
            "boxes and scores"
        )
