"""Pixels are what a person sees: orientation, transparency, depth, profiles, reduced scale."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.image import BACKGROUND, decode

# What must be done to the upright picture so that turning it by EXIF gives it back.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[:, ::-1],
}


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 10, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation(picture, orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture)))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(stored, kind, exif=exif.tobytes(), **options))
    np.testing.assert_array_equal(found, picture)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"Exif\0\0II*\0garbage"]
)
def test_a_damaged_exif_block_is_as_none(picture, exif):
    data = encoded(Image.fromarray(picture), "JPEG", quality=95, exif=exif)
    plain = encoded(Image.fromarray(picture), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(data), decode(plain))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_as_none(picture, value):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    found = decode(encoded(Image.fromarray(picture), exif=exif.tobytes()))
    np.testing.assert_array_equal(found, picture)


def see_through(hidden: int, mode: str) -> Image.Image:
    """A grey square of 90 on a transparent ground, under which `hidden` lies."""
    grey, alpha = np.full((8, 8), hidden, np.uint8), np.zeros((8, 8), np.uint8)
    grey[2:6, 2:6], alpha[2:6, 2:6] = 90, 255
    two = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    if mode == "P":  # one index of the palette is transparent
        image = Image.fromarray(np.where(alpha, 1, 0).astype(np.uint8), "P")
        image.putpalette([hidden] * 3 + [90] * 3)
        image.info["transparency"] = 0
        return image
    if mode == "RGB":  # one colour is transparent
        image = Image.merge("RGB", [Image.fromarray(grey)] * 3)
        image.info["transparency"] = (hidden,) * 3
        return image
    return two.convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB"])
def test_what_is_hidden_makes_no_difference(mode):
    first, second = (
        decode(encoded(image, transparency=image.info["transparency"]))
        if "transparency" in image.info
        else decode(encoded(image))
        for image in (see_through(0, mode), see_through(200, mode))
    )
    np.testing.assert_array_equal(first, second)
    assert first[0, 0].tolist() == list(BACKGROUND) and first[4, 4].tolist() == [90, 90, 90]


def test_half_transparent_is_half_the_background():
    image = Image.fromarray(np.full((4, 4, 4), (0, 0, 0, 128), np.uint8))
    assert abs(int(decode(encoded(image))[0, 0, 0]) - 127) <= 1


def test_sixteen_bits_are_scaled():
    """A 16-bit ramp keeps its order and its ends; Pillow's own conversion clips it at 255."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = decode(encoded(Image.fromarray(ramp)))
    assert found[0, 0].tolist() == [0, 0, 0] and found[-1, -1].tolist() == [255, 255, 255]
    assert (np.diff(found[..., 0].reshape(-1).astype(int)) > 0).all()


@pytest.mark.parametrize(
    "kind, options", [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0})]
)
def test_colours_of_a_profile_become_srgb(picture, kind, options):
    """An sRGB profile changes nothing, nor does a damaged one."""
    image = Image.fromarray(np.full((8, 8, 3), (200, 60, 60), np.uint8))
    plain = decode(encoded(image, kind, **options)).astype(int)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decode(encoded(image, kind, icc_profile=srgb, **options)).astype(int)
    np.testing.assert_array_equal(same, plain)
    damaged = decode(encoded(image, kind, icc_profile=b"no profile", **options)).astype(int)
    np.testing.assert_array_equal(damaged, plain)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert decode(encoded(image, kind, icc_profile=lab, **options)).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_look_the_same(mode):
    grey = np.zeros((16, 16), np.uint8)
    grey[4:12, 4:12] = 255
    image = Image.fromarray(grey).convert("RGB").convert(mode)
    kind, options = ("JPEG", {"quality": 100}) if mode == "CMYK" else ("PNG", {})
    found = decode(encoded(image, kind, **options)).astype(int)
    assert np.abs(found - grey[..., None]).max() <= 3


def test_a_large_jpeg_is_decoded_at_a_reduced_scale():
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    data = encoded(rough.resize((2000, 1500), Image.Resampling.BICUBIC), "JPEG", quality=95)
    small = decode(data, size=(96, 32))
    assert small.shape == (375, 500, 3)  # at 1/4: 1/8 would be under twice the 96 rows
    whole = decode(data)
    assert whole.shape == (1500, 2000, 3)
    ours, full = (preprocess.resize(x, (96, 32)).astype(int) for x in (small, whole))
    assert np.abs(ours - full).mean() < 1
    # What the caps refuse whole can be read at a reduced scale.
    with pytest.raises(preprocess.ImageTooLargeError):
        decode(data, max_pixels=10**6)
    assert decode(data, size=(96, 32), max_pixels=10**6).shape == small.shape


def test_a_photo_on_its_side_is_reduced_by_its_own_rows_and_columns():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(Image.new("RGB", (1600, 400)), "JPEG", exif=exif.tobytes())
    assert decode(data, size=(100, 25)).shape == (200, 50, 3)


def test_small_images_are_never_reduced(picture):
    data = encoded(Image.fromarray(picture), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(data, size=(384, 128)), decode(data))


def test_a_png_with_a_long_text_is_read(picture):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 3_000_000, zip=True)
    data = encoded(Image.fromarray(picture), pnginfo=text)
    np.testing.assert_array_equal(decode(data), picture)
