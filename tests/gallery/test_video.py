"""Frames of videos that the test encodes: order, times, one frame again, and what is no video."""

import fractions
import shutil
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from tipr_jax.gallery import retriever, video
from tipr_jax.gallery.detection import Detection
from tipr_jax.gallery.items import Box
from tipr_jax.preprocess.image import ImageTooLargeError

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'tipr_jax[video]'")

HEIGHT, WIDTH = 48, 64
SHADES = [10, 40, 70, 100, 130, 160, 190, 220, 25, 55, 85, 115]  # of the frames, far apart
FORMATS = {  # name -> (container's ending, codec)
    "mp4": ("mp4", "mpeg4"),
    "mov": ("mov", "mpeg4"),
    "avi": ("avi", "mpeg4"),
    "mkv": ("mkv", "mpeg4"),
    "webm": ("webm", "libvpx"),
    "ts": ("ts", "mpeg2video"),
    "mpg": ("mpg", "mpeg2video"),
    "flv": ("flv", "flv"),
}


def write(path, codec="mpeg4", rate=10, shades=SHADES, times=None, size=(HEIGHT, WIDTH), **stream):
    """A video whose frames have one shade each; times: of the frames, in tenths of a second."""
    with av.open(str(path), "w") as container:
        out = container.add_stream(codec, rate=rate)
        out.height, out.width = size
        out.pix_fmt, out.bit_rate = "yuv420p", 2_000_000
        out.codec_context.gop_size = 4
        for name, value in stream.items():
            setattr(out.codec_context, name, value)
        for number, shade in enumerate(shades):
            pixels = np.full((*size, 3), shade, np.uint8)
            pixels[:8, :8] = (250, 20, 20)  # the upper left corner is red
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], fractions.Fraction(1, 10)
            container.mux(out.encode(frame))
        container.mux(out.encode())
    return path


def shade(pixels):
    return float(pixels[16:, 16:].mean())


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "a.mp4")


@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_with_its_time_and_again_by_its_time(tmp_path, name):
    ending, codec = FORMATS[name]
    rate = 25 if codec == "mpeg2video" else 10
    path = write(tmp_path / f"no ending {ending}.{ending}", codec, rate)
    path = path.rename(tmp_path / "upload")  # the content decides, not the name
    assert video.is_video(path)
    found = list(video.frames(path))
    assert [frame.number for frame in found] == list(range(len(SHADES)))
    assert [shade(frame.pixels) for frame in found] == pytest.approx(SHADES, abs=8)
    want = np.arange(len(SHADES)) / rate
    assert [frame.seconds for frame in found] == pytest.approx(want, abs=0.002)
    for frame in found[::-1]:
        assert frame.pixels.shape == (HEIGHT, WIDTH, 3) and frame.pixels.dtype == np.uint8
        assert frame.path == str(path)
        np.testing.assert_array_equal(video.frame_at(path, frame.seconds), frame.pixels)
        np.testing.assert_array_equal(video.frame_at(path, round(frame.seconds, 3)), frame.pixels)


def test_colours_are_in_the_order_red_green_blue(mp4):
    red, green, blue = next(video.frames(mp4)).pixels[2:6, 2:6].mean(axis=(0, 1))
    assert red > 150 and green < 90 and blue < 90


@pytest.mark.parametrize(
    ("every", "want"),
    [
        (0.0, range(12)),
        (0.1, range(12)),
        (0.2, range(0, 12, 2)),
        (0.25, [0, 3, 5, 8, 10]),
        (9.0, [0]),
    ],
)
def test_some_of_the_frames(mp4, every, want):
    found = list(video.frames(mp4, every))
    assert [frame.number for frame in found] == list(want)
    assert [shade(f.pixels) for f in found] == pytest.approx([SHADES[n] for n in want], abs=8)


def test_real_times_of_a_recording_with_gaps(tmp_path):
    times = [0, 1, 2, 30, 31, 70]
    path = write(tmp_path / "gaps.mkv", shades=SHADES[:6], times=times)
    seconds = [frame.seconds for frame in video.frames(path)]
    assert seconds == pytest.approx(np.array(times) / 10, abs=0.002)
    # The frames at 0, 3.0 and 7.0 s; 1 s after a gap nothing is made up.
    assert [f.number for f in video.frames(path, every=1.0)] == [0, 3, 5]
    assert shade(video.frame_at(path, 1.0)) == pytest.approx(SHADES[3], abs=8)


def test_times_start_at_the_first_frame(tmp_path):
    path = write(tmp_path / "late.mkv", times=[50 + n for n in range(12)])
    assert [f.seconds for f in video.frames(path)] == pytest.approx(np.arange(12) / 10, abs=0.002)
    assert shade(video.frame_at(path, 0.4)) == pytest.approx(SHADES[4], abs=8)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_recordings_of_phones_are_turned_upright(tmp_path, mp4, turn):
    """The red corner is where it is after a turn to the right by so many degrees."""
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    data = bytearray(mp4.read_bytes())
    matrix = data.index(b"tkhd") + 44  # of the track header: x' = a x - b y, y' = b x + a y
    struct.pack_into(">9i", data, matrix, a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    pixels = next(video.frames(tmp_path / "a.mp4")).pixels
    assert pixels.shape == ((WIDTH, HEIGHT, 3) if turn % 180 else (HEIGHT, WIDTH, 3))
    row, column = {0: (4, 4), 90: (4, -4), 180: (-4, -4), 270: (-4, 4)}[turn]
    assert pixels[row, column, 0] > 150 > pixels[-row, -column, 0]


def test_duration_in_whole_seconds(tmp_path, mp4):
    assert video.duration(mp4) == 1
    assert video.duration(write(tmp_path / "a.avi", shades=SHADES * 3)) == 3


@pytest.mark.parametrize("seconds", [1.2, 99.0])
def test_a_time_after_the_end(mp4, seconds):
    with pytest.raises(
        ValueError, match=rf"a.mp4: no frame at {seconds:.3f} s, the last one is at 1.1"
    ):
        video.frame_at(mp4, seconds)


def test_a_time_before_the_start(mp4):
    with pytest.raises(ValueError, match="expected 0 or later"):
        video.frame_at(mp4, -0.1)


def write_sound(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


OTHERS = {
    "photo": lambda path: Image.new("RGB", (9, 9)).save(path, "JPEG"),
    "png": lambda path: Image.new("RGB", (9, 9)).save(path, "PNG"),
    "webp": lambda path: Image.new("RGB", (9, 9)).save(path, "WEBP"),
    "gif": lambda path: Image.new("RGB", (9, 9)).save(path, "GIF"),
    "heic": lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)),
    "avif": lambda path: path.write_bytes(b"\0\0\0\x18ftypavif" + bytes(40)),
    "wav": lambda path: path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)),
    "text": lambda path: path.write_text("GG" * 400),
    "playlist": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
    "concat": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
    "empty": lambda path: path.touch(),
    "one byte": lambda path: path.write_bytes(b"G"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_video(tmp_path, what):
    path = tmp_path / "a.mp4"
    OTHERS[what](path)
    assert not video.is_video(path)
    with pytest.raises(ValueError, match="a.mp4: not a video that can be read"):
        next(video.frames(path))
    with pytest.raises(ValueError, match="a.mp4: not a video that can be read"):
        video.frame_at(path, 0.0)


DAMAGES = {
    "header alone": lambda data: data[:200],
    "start alone": lambda data: data[:40],
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: data[:48] + bytes(len(data) - 48),
    "noise": lambda data: data[:48] + np.random.default_rng(0).bytes(len(data) - 48),
}


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_video_is_one_line_or_the_frames_that_are_left(tmp_path, ending, damage):
    path = write(tmp_path / f"a.{ending}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    count = 0
    try:
        for frame in video.frames(path):
            count += 1
            assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert 0 < count < len(SHADES)


def test_sound_alone(tmp_path):
    write_sound(tmp_path / "a.m4b")
    with pytest.raises(ValueError, match="no picture in it, only audio"):
        next(video.frames(tmp_path / "a.m4b"))


def test_frames_that_are_too_large(mp4, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ImageTooLargeError, match="frames of 64 x 48 pixels, at most 3071"):
        next(video.frames(mp4))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(video.frames(tmp_path / "a.mp4"))


def test_without_the_extra(mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert video.is_video(mp4)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tipr_jax\[video\]'"):
        next(video.frames(mp4))


class OnePerson:
    """A detector that sees one person in the middle of every frame."""

    name, every = "nanodet-stand-in", 5

    def detect(self, frames):
        return [[Detection(Box(20, 4, 14, 40), 0.9)] for _ in frames]


def test_a_video_that_is_named_needs_no_detector_said(mp4, tmp_path, monkeypatch, model):
    """Photos keep showing one person each; a video in a folder is named among what is skipped."""
    asked = []

    def make(detect):
        asked.append(detect)
        return None if detect == "none" else OnePerson()

    monkeypatch.setattr(retriever, "make_detector", make)
    gallery = retriever.Retriever.in_memory(model)
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (20, 50), (9, 90, 9)).save(folder / "a.png")
    shutil.copy(mp4, folder / "b.mp4")
    ((path, kind, reason),) = gallery.add(folder).skipped
    assert kind == "video" and path.endswith("b.mp4") and "--detect=nanodet" in reason
    assert gallery.add(mp4).new == 1 and gallery.add(mp4).same == 1
    assert gallery.add(folder).same == 1  # the video did not change how photos are read
    assert asked == ["none", "nanodet", "nanodet", "none"]
    boxes = [m.item.box for m in gallery.search("a man", k=20)]
    assert None in boxes and any(boxes)
