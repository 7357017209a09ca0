"""Frames of a video, all of them or the one at a time, through PyAV (FFmpeg; the extra `video`).

Pixels are as people see them: turned as the file says. Times are those of the file, from its first
frame on, so a recording with gaps or a changing frame rate keeps its real times.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tipr_jax.gallery.detection import Frame
from tipr_jax.preprocess.image import MAX_PIXELS, ImageTooLargeError

SAME_TIME_S = 0.0005  # a gallery keeps the times of frames to a thousandth of a second
_PICTURES = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1", b"avif", b"avis")
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide")
_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska and WebM
    b"\0\0\1\xba",  # MPEG program stream
    b"0&\xb2u",  # Windows Media
    b"FLV\1",
    b"OggS",
)


def is_video(path: str | Path) -> bool:
    """Whether a file is a video by its first bytes, whatever its name; needs no extra.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(1024)
    if start[4:8] in _QUICKTIME:
        return start[8:12] not in _PICTURES and start[8:12] != b"M4A "
    if start[:4] == b"RIFF":
        return start[8:12] == b"AVI "
    if start[:1] == b"G":  # MPEG transport stream: packets of 188 bytes
        return start[188:189] == b"G" == start[376:377] and not start.isascii()
    return start.startswith(_STARTS)


def frames(path: str | Path, every: float = 0.0) -> Iterator[Frame]:
    """The frames of a video in the order in which they are shown.

    Args:
      path: the file.
      every: seconds; of each such span the first frame alone is given. 0: all frames.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no video, damaged, without frames, or (ImageTooLargeError) with frames too large.
      ModuleNotFoundError: PyAV is not installed.
    """
    due, number = 0.0, -1
    with _opened(path) as (container, stream):
        for number, (seconds, frame) in enumerate(_timed(container, stream)):
            if seconds < due - SAME_TIME_S:
                continue
            due = every * ((seconds + SAME_TIME_S) // every + 1) if every else 0.0
            yield Frame(_pixels(frame), str(path), number, seconds)
    if number < 0:
        raise ValueError(f"{path}: a video without frames; replace the file")


def duration(path: str | Path) -> int | None:
    """How many whole seconds a video has by its header, or None; errors as `frames`."""
    with _opened(path) as (container, _):
        return None if container.duration is None else container.duration // 1_000_000


def frame_at(path: str | Path, seconds: float) -> np.ndarray:
    """The pixels of the frame at a time that `frames` gave: uint8 [H,W,3].

    Between two frames it is the later one. Errors as `frames`; ValueError also for a time after the
    last frame.
    """
    if seconds < 0:
        raise ValueError(f"{path}: the time is {seconds} s, expected 0 or later")
    with _opened(path) as (container, stream):
        pixels = _after_a_jump(container, stream, seconds)
    if pixels is not None:
        return pixels
    last = 0.0
    with _opened(path) as (container, stream):  # from the start; some files cannot be jumped in
        for last, frame in _timed(container, stream):
            if last >= seconds - SAME_TIME_S:
                return _pixels(frame)
    raise ValueError(f"{path}: no frame at {seconds:.3f} s, the last one is at {last:.3f} s")


def _after_a_jump(container: Any, stream: Any, seconds: float) -> np.ndarray | None:
    """The frame at a time, decoded from the key frame before it; None where that does not lead."""
    first = next(container.decode(stream), None)
    if first is None or first.time is None:
        return None
    wanted = float(first.time) + seconds
    container.seek(int(wanted / stream.time_base), stream=stream, backward=True)
    for number, frame in enumerate(container.decode(stream)):
        if frame.time is None:
            return None
        if frame.time >= wanted - SAME_TIME_S:
            there = number > 0 or frame.time <= wanted + SAME_TIME_S
            return _pixels(frame) if there else None
    return None


def _timed(container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
    """The frames with their seconds after the first; without times the frame rate says them."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    start = None
    for number, frame in enumerate(container.decode(stream)):
        time = number / rate if frame.time is None else float(frame.time)
        start = time if start is None else start
        yield time - start, frame


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """(container, its first video stream); what FFmpeg says of a damaged file in one line."""
    try:
        import av
        import av.error
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} is a video, which PyAV reads: pip install 'tipr_jax[video]'"
        ) from None
    if not is_video(path):  # FFmpeg would open playlists that name other files, and text
        raise ValueError(f"{path}: not a video that can be read; convert it to MP4")
    try:
        with open(path, "rb") as file, av.open(file) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no picture in it, only {_kinds(container)}")
            stream = container.streams.video[0]
            size = (stream.codec_context.height, stream.codec_context.width)
            if size[0] * size[1] > MAX_PIXELS:
                raise ImageTooLargeError(
                    f"{path}: frames of {size[1]} x {size[0]} pixels, at most {MAX_PIXELS} are "
                    "decoded; use a smaller video"
                )
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{path}: damaged video ({reason}); replace the file") from None


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _pixels(frame: Any) -> np.ndarray:
    """uint8 [H,W,3], turned as the file says (phones record sideways)."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
