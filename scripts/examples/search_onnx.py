"""Search photos with a model exported by --onnx; needs onnxruntime, numpy, tokenizers and Pillow.

python search_onnx.py runs/quickstart/export photos/ "a man in a red coat"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def main(directory: Path, photos: Path, sentence: str) -> None:
    resize = json.loads((directory / "preprocessor_config.json").read_text("utf-8"))

    def unit_features(name: str, rows: np.ndarray) -> np.ndarray:
        """[N, ...] -> float32 [N, C], rows of length 1."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # without its remarks on constants that are not used
        session = onnxruntime.InferenceSession(directory / "onnx" / f"{name}.onnx", options)
        features = np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0])
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def pixels(path: Path) -> np.ndarray:
        size = resize["size"]["width"], resize["size"]["height"]
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        return np.asarray(image.resize(size, resize["resample"]))

    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(sentence).ids
    files = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images = unit_features("encode_image", np.stack([pixels(path) for path in files]))
    scores = images @ unit_features("encode_text", np.array([ids], np.int32))[0]
    for i in np.argsort(-scores, kind="stable"):
        print(f"{scores[i]:.6f} {files[i]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
