"""Decode, resize and normalise one image with Pillow and numpy.

Training, evaluation, search, the report and the check of a data set all call these functions, so a
picture gets the same pixels wherever it is read, and they are the pixels that a person sees: turned
as EXIF says, transparent parts on `BACKGROUND`, colours of an ICC profile as sRGB, deep greys
scaled to 8 bits.
"""

import io
import os
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from tipr_jax.paths import no_such_path

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
BACKGROUND = (255, 255, 255)  # what shows through transparent parts, as on white paper
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_BYTES = 32 * 2**20  # of the encoded file
MAX_PIXELS = 50_000_000  # 150 MB once decoded; person crops have 0.02 - 0.5 million
REDUCE_FROM = 2  # a resize from twice the size looks as one from the whole

# What CLIP normalises images with, for RGB in [0, 1] (clip/clip.py in its release).
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # damaged ones are called photos, too
_HEADER_BYTES = 4096
_truncated_lock = threading.Lock()
# Pillow warns of images above a size of its own, and refuses longer texts in a PNG than 1 MB;
# `max_bytes` and `max_pixels` are the caps here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # it is as none, see `_upright`
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2 * MAX_BYTES


class ImageTooLargeError(ValueError):
    """More bytes or pixels than the caps allow."""


def decode(
    source: bytes | str | os.PathLike,
    *,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    allow_truncated: bool = False,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads an image as RGB, as a person sees it.

    The byte cap is checked before reading and the pixel cap on the header, before decoding.

    Args:
      source: encoded bytes, or a path.
      name: what error messages call the image; default: the path.
      size: (H, W) that it will be resized to. A JPEG of more than `REDUCE_FROM` times as many rows
        and columns is decoded at 1/2, 1/4 or 1/8 of its size, several times faster.
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
    image = _open(data, name, max_pixels, size)
    try:
        return _as_seen(image)
    except MemoryError:
        raise
    except Exception as error:  # OSError, SyntaxError, struct.error ...: Pillow on damaged bytes
        if not allow_truncated:
            raise ValueError(f"{name}: damaged image ({error}); replace the file") from None
    return _decode_truncated(data, name, max_pixels, size)


def seen_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of an image as a person sees it, turned as EXIF says; reads the header alone.

    Raises:
      FileNotFoundError, ValueError: as `decode`; damage behind the header is not seen.
    """
    image = _open(*_read(path, None, MAX_BYTES), MAX_PIXELS)
    return (image.height, image.width) if _orientation(image) < 5 else image.size


def from_array(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3] of an array that is RGB, grey [H,W] or [H,W,1], or RGBA [H,W,4].

    Raises:
      ValueError: another dtype or shape, by name.
    """
    channels = image.shape[2:] or (1,)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in ((1,), (3,), (4,)):
        raise ValueError(
            f"an image array of {image.dtype} {list(image.shape)}; expected uint8 with values 0 to "
            "255 and the shape [H,W,3] (RGB), [H,W] (grey) or [H,W,4] (RGBA)"
        )
    if 0 in image.shape:
        raise ValueError(f"an image array without pixels, {list(image.shape)}")
    return _as_seen(
        Image.fromarray(image[..., 0] if channels == (1,) and image.ndim == 3 else image)
    )


def not_an_image(path: str | os.PathLike) -> str | None:
    """Says in a line why a file cannot be one of `FORMATS`, by its first bytes; None if it can.

    Raises:
      OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(_HEADER_BYTES)
        if not start:
            return "empty file (0 bytes)"
        try:
            file.seek(0)
            Image.open(file, formats=FORMATS).close()
        except Image.DecompressionBombError:
            return None  # an image; `decode` says that it is too large
        except Exception:
            return None if start.startswith(_SIGNATURES) else _what_it_is(start)
    return None


def _what_it_is(data: bytes) -> str:
    """What a file is instead of one of `FORMATS`, and what to do."""
    wanted = ", ".join(FORMATS)
    if data[4:8] == b"ftyp":  # the container of phones' pictures and of videos
        brand = data[8:12].decode("latin-1").strip()
        known = {"heic": "HEIC", "heix": "HEIC", "mif1": "HEIF", "avif": "AVIF"}
        kind = f"a {known[brand]} picture" if brand in known else f"a video ({brand})"
        return f"{kind}, not a readable image ({wanted}); convert it to JPEG"
    try:
        kind = Image.open(io.BytesIO(data)).format
    except Exception:  # no format that Pillow knows, or a damaged header
        kind = None
    if kind and kind not in FORMATS:
        return f"a {kind} picture, not a readable image ({wanted}); convert it to JPEG"
    return f"not a readable image ({wanted}); replace the file"


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
            raise FileNotFoundError(no_such_path(name, "image file"))
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


def _open(
    data: bytes, name: str, max_pixels: int, size: tuple[int, int] | None = None
) -> Image.Image:
    """Reads the header only and applies the format list, the reduced scale and the pixel cap."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if size is not None:
            height, width = size if _orientation(image) < 5 else size[::-1]
            image.draft(None, (REDUCE_FROM * width, REDUCE_FROM * height))
        pixels = image.width * image.height
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name}: {error}; use a smaller image") from None
    except MemoryError:
        raise
    except Exception:
        raise ValueError(f"{name}: {_what_it_is(data)}") from None
    if pixels > max_pixels:
        raise ImageTooLargeError(
            f"{name}: {image.width} x {image.height} pixels, at most {max_pixels} are decoded; "
            "use a smaller image"
        )
    return image


def _as_seen(image: Image.Image) -> np.ndarray:
    """uint8 [H,W,3] of an opened image: orientation, depth, transparency and colours applied."""
    image.load()
    profile = image.info.get("icc_profile")
    image = _upright(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(ground, image).convert("RGB")
    return np.asarray(_as_srgb(image, profile))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned and mirrored as EXIF says; a damaged EXIF block is as none."""
    try:
        return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    except Exception:  # SyntaxError, struct.error, ...: Pillow on damaged blocks
        return image


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation: 1 upright, 2 to 4 mirrored or upside down, 5 to 8 on its side."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # SyntaxError, struct.error, ...: Pillow on damaged blocks
        return 1
    return value if value in range(1, 9) else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, the deepest of `FORMATS`, scaled to 8 bits."""
    return Image.fromarray(np.rint(np.asarray(image) / 65535.0 * 255).astype(np.uint8))


def _as_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB, which it is without a profile; a damaged profile is as none."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                srgb = ImageCms.createProfile("sRGB")
                found = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
                return found or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def _decode_truncated(
    data: bytes, name: str, max_pixels: int, size: tuple[int, int] | None
) -> np.ndarray:
    # Pillow's only switch for this is process-wide, so it is on for one decode at a time.
    with _truncated_lock:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _as_seen(_open(data, name, max_pixels, size))
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"{name}: damaged image ({error}); replace the file") from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
