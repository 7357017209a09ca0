"""Photos for manifests, and a writer of manifests beside them."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_pipelines.check import check_dataset
from data_pipelines.manifest.load import load_manifest

PHOTOS = 12  # photos/0.png ... of 96 x 192 pixels with blots, all different


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """write(content, name="manifest.csv") -> the path; content: bytes, or text as UTF-8."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(PHOTOS):
        blots = Image.fromarray(rng.integers(0, 256, (12, 6, 3), dtype=np.uint8))
        blots.resize((96, 192)).save(tmp_path / "photos" / f"{number}.png")

    def write(content: str | bytes, name: str = "manifest.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def lines() -> Callable[..., str]:
    """lines(count=6, extra="") -> rows "photos/0.png,A man with 0 bags.EXTRA"."""
    return _lines


@pytest.fixture
def agree() -> Callable[..., str | None]:
    """agree(path, languages=()) -> what loading says, after the check has said the same."""
    return _agree


def _lines(count: int = 6, extra: str = "") -> str:
    return "".join(f"photos/{i}.png,A man with {i} bags.{extra}\n" for i in range(count))


def _agree(path: str, languages: tuple[str, ...] = ()) -> str | None:
    """The first problem in one line that names the file, or None."""
    found = []
    for call in (
        lambda: load_manifest(path, languages),
        lambda: check_dataset("manifest", path, languages),
    ):
        try:
            report = call()
        except (ValueError, OSError) as error:
            found.append(str(error))
        else:
            problems = getattr(report, "problems", {})
            found.append(next(iter(problems.values()))[0] if problems else None)
    loaded, checked = found
    if loaded is not None:
        assert checked and loaded.startswith(checked), (loaded, checked)
        assert "\n" not in checked and str(pathlib.Path(path).parent) in checked, checked
    else:
        assert checked is None, checked
    return loaded
