"""Where the people are in a whole picture: the detectors that there are (what one is: `detection`).

A detector is asked for on the command line by a word: `none` (every picture shows one person),
`nanodet` (a small network that is run in JAX, see `nanodet`), `file:BOXES.csv` (boxes that
something else has found, see `boxes_file`) or `onnx:MODEL.onnx` (a larger network, see
`onnx_detector`).
"""

from tipr_jax.gallery.detection import Detection, Detector, Frame
from tipr_jax.paths import local_path, no_such_path

__all__ = ["CHOICES", "Detection", "Detector", "Frame", "make_detector"]

CHOICES = "none, nanodet, file:BOXES.csv or onnx:MODEL.onnx"


def make_detector(spec: str) -> Detector | None:
    """The detector of a word like those of `CHOICES`; None for "none".

    Raises:
      ValueError: no such detector, or its file is not what it should be.
      FileNotFoundError: its file or its weights are not there.
      ModuleNotFoundError: the package that runs it is not installed.
    """
    kind, colon, given = spec.partition(":")
    if spec == "none":
        return None
    if spec == "nanodet":
        from tipr_jax.gallery.nanodet import NanoDet

        return NanoDet.load()
    if kind not in ("file", "onnx") or not given:
        raise ValueError(f"--detect={spec}: expected {CHOICES}")
    path = local_path(given, f"--detect={kind}{colon}")
    if not path.is_file():
        raise FileNotFoundError(
            no_such_path(path, "boxes file" if kind == "file" else "model file")
        )
    if kind == "file":
        from tipr_jax.gallery.boxes_file import BoxesFile

        return BoxesFile.load(path)
    from tipr_jax.gallery.onnx_detector import OnnxDetector

    return OnnxDetector.load(path)
