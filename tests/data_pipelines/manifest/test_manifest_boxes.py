"""People in whole pictures: the same pixels as a gallery's box, cached by box."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images.image_source import image_source
from data_pipelines.manifest.load import load_manifest, read_manifest
from tipr_jax.gallery.detection import Detection, Frame
from tipr_jax.gallery.people import cut_out
from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.box import Box

HEADER = "file,caption,split,box\n"


@pytest.fixture
def street(write, tmp_path):
    """street(*boxes) -> a manifest of one picture of 60 x 40 pixels on its side, as phones do."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # 60 wide and 40 high once it is upright
    Image.fromarray(pixels).save(tmp_path / "street.jpg", quality=95, exif=exif)

    def make(*boxes: str, name: str = "manifest.csv") -> str:
        rows = [f'street.jpg,Somebody {i}.,train,"{box}"\n' for i, box in enumerate(boxes)]
        return write(HEADER + "".join(rows), name)

    return make


@pytest.mark.parametrize("cache", [True, False])
def test_pixels_are_those_of_a_gallery(street, data_cfg, tmp_path, cache):
    pytest.importorskip("tensorflow") if not cache else None
    train = load_manifest(street("30,5,10,20", "50,20,30,30", ""))["train"]
    assert train.image_box.tolist() == [[30, 5, 10, 20], [50, 20, 30, 30], [0, 0, 0, 0]]
    data_cfg.name, data_cfg.cache = "manifest", cache
    found = image_source(train, data_cfg)(np.arange(3))
    picture = preprocess.decode(tmp_path / "street.jpg")
    assert picture.shape == (40, 60, 3)
    height, width = data_cfg.image_size
    for image, box in zip(found, (Box(30, 5, 10, 20), Box(50, 20, 10, 20)), strict=False):
        person = cut_out(Frame(picture), Detection(box, 1.0), height / width)
        want = preprocess.resize(person.pixels, data_cfg.image_size)
        np.testing.assert_array_equal(image, want)
    np.testing.assert_array_equal(found[2], preprocess.resize(picture, data_cfg.image_size))


def test_another_box_is_another_cache(street, data_cfg):
    data_cfg.name, data_cfg.cache = "manifest", True
    first, second = (
        image_source(load_manifest(street(box))["train"], data_cfg)(np.arange(1))
        for box in ("0,0,10,20", "5,0,10,20")
    )
    assert (first != second).any()


@pytest.mark.parametrize(
    "written", ["30,5,10,20", "[30, 5, 10, 20]", "30 5 10 20", "30.2;4.8;10;20.1"]
)
def test_forms_of_a_box(street, written):
    (picture,) = read_manifest(street(written)).pictures
    assert picture.box == Box(30, 5, 10, 20)


def test_four_columns_and_a_box_that_is_cut_off(street, write):
    street("")
    path = write("file,caption,split,x,y,w,h\nstreet.jpg,a,train,50,5,20,20\n")
    manifest = read_manifest(path)
    assert manifest.pictures[0].box == Box(50, 5, 20, 20)
    notes = manifest.findings.notes
    assert notes["boxes are cut off at the border of the picture"] == [f"{path} line 2"]


def test_width_and_height_alone_are_those_of_the_picture(write, lines):
    path = write("file,caption,width,height\n" + lines(6, ",16,32"))
    manifest = read_manifest(path)
    assert all(picture.box is None for picture in manifest.pictures)
    assert manifest.findings.notes["columns that are not read"] == [f"{path}: width, height"]
