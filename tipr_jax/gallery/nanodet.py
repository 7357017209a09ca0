"""The person detector NanoDet-g (416 x 416, 3.8 million parameters), run in JAX.

Source: github.com/RangiLyu/nanodet (Apache-2.0), 22.9 mAP on COCO; the weights are fetched by
scripts/get_detector.sh. A frame is resized to 416 x 416, its shape not kept. The network answers
for every cell of three grids with 80 sigmoid scores, of which the first is "person", and with a
distribution over 11 distances, in cells, from the cell's middle to each side of the box.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load as load_arrays

from tipr_jax.gallery import nanodet_graph, nanodet_weights
from tipr_jax.gallery.detection import Detection, Frame, people_of
from tipr_jax.preprocess.image import resize

SIDE = 416
STRIDES = (8, 16, 32)
DISTANCES = 11
MEAN = (103.53, 116.28, 123.675)  # of blue, green, red
DEVIATION = (57.375, 57.12, 58.395)
LEAST_SCORE = 0.4


class NanoDet:
    """The detector `nanodet`: one program for one frame, which on two CPU cores takes half the time
    per frame of a program for eight.
    """

    every = 0.2  # people move by a tenth of their height

    def __init__(self, graph: nanodet_graph.Graph, weights: Mapping[str, np.ndarray], name: str):
        self.name = name
        floats, constants = nanodet_graph.split(weights)
        self._weights = jax.device_put(floats)
        self._run = jax.jit(functools.partial(_answer, graph, constants))

    @classmethod
    def load(cls, directory: Path | None = None) -> "NanoDet":
        """The detector whose weights lie in a directory, by default where the script puts them.

        Raises:
          FileNotFoundError: they are not there, and nothing is fetched behind the user's back.
        """
        directory = directory or nanodet_weights.directory()
        path = directory / nanodet_weights.WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; fetch the weights of the detector: scripts/get_detector.sh"
            )
        data = path.read_bytes()
        graph = nanodet_graph.read(directory / nanodet_weights.GRAPH)
        name = f"nanodet-g-416:{hashlib.sha256(data).hexdigest()[:8]}"
        return cls(graph, load_arrays(data), name)

    def detect(self, frames: Sequence[Frame]) -> list[list[Detection]]:
        """As `Detector.detect`."""
        small = (resize(frame.pixels, (SIDE, SIDE)) for frame in frames)
        answers = [self._run(self._weights, pixels) for pixels in small]  # they run meanwhile
        return [
            people_of(np.asarray(boxes) / SIDE, np.asarray(scores), LEAST_SCORE, frame)
            for (boxes, scores), frame in zip(answers, frames, strict=True)
        ]


def _answer(graph, constants, weights, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 [416,416,3] RGB -> corners float32 [N,4] in pixels, person scores [N]."""
    return decode(nanodet_graph.run(graph, constants | weights, normalise(pixels)))


def normalise(pixels: jax.Array) -> jax.Array:
    """uint8 [H,W,3] RGB -> float32 [1,3,H,W], blue first, as the network was trained."""
    normal = (pixels[..., ::-1] - jnp.array(MEAN)) / jnp.array(DEVIATION)
    return normal.transpose(2, 0, 1)[None]


def decode(outputs: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The network's six outputs -> corners float32 [N,4] in pixels, person scores [N].

    For each stride, in any order, [1,cells,80] scores and [1,cells,44] logits of distances.
    """
    by_shape = {output.shape[1:]: output[0] for output in outputs}
    boxes, scores = [], []
    for stride in STRIDES:
        cells = SIDE // stride
        middle = (np.arange(cells) + 0.5) * stride
        y, x = np.meshgrid(middle, middle, indexing="ij")
        logits = by_shape[cells * cells, 4 * DISTANCES].reshape(-1, 4, DISTANCES)
        distance = jax.nn.softmax(logits) @ jnp.arange(DISTANCES, dtype=jnp.float32) * stride
        left, top, right, bottom = distance.T
        x, y = x.ravel(), y.ravel()
        boxes.append(jnp.stack([x - left, y - top, x + right, y + bottom], axis=-1))
        scores.append(by_shape[cells * cells, 80][:, 0])
    return jnp.concatenate(boxes), jnp.concatenate(scores)
