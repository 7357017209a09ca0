"""`preprocessor_config.json`: how a photo becomes what the encoders take, in Hugging Face's words.

The encoders take uint8 and normalise inside, so nothing is rescaled and nothing normalised before.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tipr_jax.preprocess.image import FILTERS

FILE = "preprocessor_config.json"


def write(directory: Path, image_size: tuple[int, int], test_resize: str) -> None:
    """image_size: (H, W). test_resize: one of `preprocess.image.FILTERS`."""
    height, width = image_size
    fields = {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": int(FILTERS[test_resize]),  # Pillow's number
        "do_rescale": False,
        "do_normalize": False,
        "data_format": "channels_last",
        "note": "uint8 [B,H,W,3] goes into the encoders, which normalise it; aspect is not kept",
    }
    (directory / FILE).write_text(json.dumps(fields, indent=2) + "\n", "utf-8")


def resize(directory: Path, image: Image.Image) -> np.ndarray:
    """uint8 [H,W,3] of an upright image by the file alone. Raises ValueError if it is damaged."""
    path = directory / FILE
    try:
        fields = json.loads(path.read_text("utf-8"))
        size = fields["size"]["width"], fields["size"]["height"]
        return np.asarray(image.convert("RGB").resize(size, fields["resample"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}); export the model again") from None
