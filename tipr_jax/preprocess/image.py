"""Decode, resize and normalise one image with Pillow and numpy.

Training, evaluation and serving all call these functions, so a picture gets the same pixels
wherever it is read.
"""

import io
import os
import threading

import numpy as np
from PIL import Image, ImageFile

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_BYTES = 32 * 2**20  # of the encoded file
MAX_PIXELS = 50_000_000  # 150 MB once decoded; person crops have 0.02 - 0.5 million

# What CLIP normalises images with, for RGB in [0, 1] (clip/clip.py in its release).
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_truncated_lock = threading.Lock()


class ImageTooLargeError(ValueError):
    """More bytes or pixels than the caps allow."""


def decode(
    source: bytes | str | os.PathLike,
    *,
    name: str | None = None,
    allow_truncated: bool = False,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads an image as RGB.

    The byte cap is checked before reading and the pixel cap on the header, before decoding.

    Args:
      source: encoded bytes, or a path.
      name: what error messages call the image; default: the path.
      allow_truncated: accept a file that ends early (missing pixels are grey or black), as with
        Pillow's LOAD_TRUNCATED_IMAGES, which released training code sets.
      max_bytes: cap on the encoded size.
      max_pixels: cap on width x height.

    Returns:
      uint8 [H, W, 3].

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: empty, too large (ImageTooLargeError), not JPEG/PNG/BMP/WEBP, or damaged; the
        message names the image.
    """
    data, name = _read(source, name, max_bytes)
    image = _open(data, name, max_pixels)
    try:
        return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # OSError, SyntaxError, struct.error ...: Pillow on damaged bytes
        if not allow_truncated:
            raise ValueError(f"{name}: damaged image ({error}); replace the file") from None
    return _decode_truncated(data, name, max_pixels)


def resize(image: np.ndarray, size: tuple[int, int], filter: str = "bilinear") -> np.ndarray:
    """Pillow's antialiased resize, which torchvision uses for images too; aspect not kept.

    uint8 [h, w, 3] -> uint8 [H, W, 3], with `size` = (H, W) in pixels and a `filter` of FILTERS.

    Raises:
      ValueError: another filter.
    """
    if filter not in FILTERS:
        raise ValueError(f"resize filter {filter!r} is unknown; use one of {', '.join(FILTERS)}")
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[filter]))


def normalise(image: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> float32 [..., 3]: x / 255, minus CLIP mean, divided by CLIP std."""
    return (image.astype(np.float32) / np.float32(255) - CLIP_MEAN) / CLIP_STD


def _read(source: bytes | str | os.PathLike, name: str | None, max_bytes: int) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        name, size = name or "image", len(source)
    else:
        name = name or os.fspath(source)
        if not os.path.isfile(source):
            raise FileNotFoundError(f"{name}: no such image file")
        size = os.path.getsize(source)
    if size == 0:
        raise ValueError(f"{name}: empty image file (0 bytes); replace the file")
    if size > max_bytes:
        raise ImageTooLargeError(
            f"{name}: {size} bytes, at most {max_bytes} are read; use a smaller image"
        )
    if isinstance(source, bytes):
        return source, name
    with open(source, "rb") as file:
        return file.read(), name


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Reads the header only and applies the format list and the pixel cap."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = image.width * image.height
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name}: {error}; use a smaller image") from None
    except MemoryError:
        raise
    except Exception:
        formats = ", ".join(FORMATS)
        raise ValueError(f"{name}: not a readable image ({formats}); replace the file") from None
    if pixels > max_pixels:
        raise ImageTooLargeError(
            f"{name}: {image.width} x {image.height} pixels, at most {max_pixels} are decoded; "
            "use a smaller image"
        )
    return image


def _decode_truncated(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    # Pillow's only switch for this is process-wide, so it is on for one decode at a time.
    with _truncated_lock:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return np.asarray(_open(data, name, max_pixels).convert("RGB"))
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"{name}: damaged image ({error}); replace the file") from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
