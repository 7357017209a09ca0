"""Decoding, resizing and normalising images."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from tipr_jax.preprocess import image as preprocess


def encode(array: np.ndarray, image_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, image_format)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", b"abc") + chunk(b"IEND", b"")
    )


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 20, 3), dtype=np.uint8)


def test_decode_reads_the_same_from_a_path_and_from_bytes(photo, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(photo))
    np.testing.assert_array_equal(preprocess.decode(path), photo)
    np.testing.assert_array_equal(preprocess.decode(path.read_bytes()), photo)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "WEBP"])
def test_decode_accepts_the_listed_formats(photo, image_format):
    decoded = preprocess.decode(encode(photo, image_format))
    assert decoded.shape == photo.shape and decoded.dtype == np.uint8


def test_decode_rejects_another_format_of_a_good_image(photo):
    with pytest.raises(ValueError, match="q.tiff: a TIFF picture, not a readable image"):
        preprocess.decode(encode(photo, "TIFF"), name="q.tiff")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_decode_returns_rgb_whatever_the_mode(photo, mode):
    file = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(file, "PNG")
    assert preprocess.decode(file.getvalue()).shape == photo.shape


@pytest.mark.parametrize("data", [b"not an image", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x89PNG\r\n"])
def test_decode_of_garbage_names_the_image(data):
    with pytest.raises(ValueError, match="^query.jpg: .*replace the file$"):
        preprocess.decode(data, name="query.jpg")


def test_decode_of_an_empty_or_missing_file_names_it(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match="empty.jpg: empty image file"):
        preprocess.decode(tmp_path / "empty.jpg")
    with pytest.raises(FileNotFoundError, match="absent.jpg: no such image file"):
        preprocess.decode(tmp_path / "absent.jpg")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_truncated_files_are_read_only_if_allowed(photo, image_format):
    smooth = np.asarray(Image.fromarray(photo).resize((200, 480)))
    whole = encode(smooth, image_format)
    cut = whole[: len(whole) // 2]
    with pytest.raises(ValueError, match="^cut: damaged image"):
        preprocess.decode(cut, name="cut")
    decoded = preprocess.decode(cut, allow_truncated=True)
    assert decoded.shape == smooth.shape
    np.testing.assert_array_equal(decoded[:100], preprocess.decode(whole)[:100])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("size", [(8000, 8000), (60000, 60000)])  # above our cap, above Pillow's
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_pixel_cap_is_checked_on_the_header(size):
    with pytest.raises(preprocess.ImageTooLargeError, match="^bomb.png: .*use a smaller image"):
        preprocess.decode(png_header(*size), name="bomb.png")
    with pytest.raises(ValueError, match="damaged"):  # the same bytes below the cap do get decoded
        preprocess.decode(png_header(80, 80), name="bomb.png")


def test_the_byte_cap_is_checked_before_reading(photo, tmp_path, monkeypatch):
    path = tmp_path / "big.png"
    path.write_bytes(encode(photo))
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(preprocess.ImageTooLargeError, match="big.png: .* at most 100 are read"):
        preprocess.decode(path, max_bytes=100)


def test_resize_filters():
    """Bicubic overshoots at an edge, bilinear does not."""
    edge = np.repeat(np.array([[100] * 4 + [200] * 4], np.uint8)[..., None], 3, axis=2)
    bilinear, bicubic = (preprocess.resize(edge, (1, 32), f) for f in ("bilinear", "bicubic"))
    assert bilinear.min() == 100 and bilinear.max() == 200
    assert bicubic.min() < 100 and bicubic.max() > 200
    np.testing.assert_array_equal(preprocess.resize(edge, (1, 32)), bilinear)
    with pytest.raises(ValueError, match="'nearest' is unknown; use one of bilinear, bicubic"):
        preprocess.resize(edge, (1, 32), "nearest")
