"""A first manifest for a folder of photos, which the reader then takes."""

import os
import pathlib
import subprocess
import sys

import pytest

from data_pipelines.manifest import __main__ as command
from data_pipelines.manifest.load import read_manifest
from data_pipelines.manifest.make import make_manifest


@pytest.fixture
def photos(write, tmp_path) -> pathlib.Path:
    """photos/anna/red_coat_1.png, photos/berta/blue-hat.JPG and what is none."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("anna/red_coat_1.png", "berta/blue-hat.JPG", "7_c1.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{number}.png").rename(folder / name)
    for path in folder.glob("[0-9].png"):
        path.unlink()
    for path in folder.glob("1[0-9].png"):
        path.unlink()
    for name in ("._red.png", "notes.txt", ".hidden/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("none")
    return folder


def read(path: pathlib.Path) -> dict[str, tuple[str, list[str]]]:
    """{name: (person, captions)}; no problem but that two photos are too few to draw from."""
    manifest = read_manifest(str(path))
    assert manifest.findings.problems.keys() <= {"too few people"}
    return {
        pathlib.Path(picture.path).name: (picture.person, [text for _, _, text in picture.captions])
        for picture in manifest.pictures
    }


def test_captions_from_text_files_beside_the_photos(photos):
    (photos / "anna" / "red_coat_1.txt").write_bytes(
        b"\xef\xbb\xbfA woman, tall.\r\n\r\nIn red.\r\n"
    )
    path, counts = make_manifest(str(photos))
    assert path == photos / "manifest.csv"
    assert counts == {"photos": 3, "without a caption": 2, "captions without a photo": 0}
    assert read(path) == {
        "red_coat_1.png": ("", ["A woman, tall.", "In red."]),
        "blue-hat.JPG": ("", []),
        "7_c1.png": ("", []),
    }


@pytest.mark.parametrize(
    ("person_id", "people"), [("folder", ["", "anna", "berta"]), ("prefix", ["7", "blue", "red"])]
)
def test_captions_and_people_from_names(photos, tmp_path, person_id, people):
    path, _ = make_manifest(str(photos), "names", person_id, str(tmp_path / "lists.csv"))
    found = read(path)
    assert found["red_coat_1.png"][1] == ["red coat"] and found["blue-hat.JPG"][1] == ["blue hat"]
    ids = sorted(person for person, _ in found.values())
    assert ids == people  # a photo in no folder of its own has no id


def test_captions_from_a_spreadsheet(photos, write):
    table = write("Image;Text;Text 2\nanna\\red_coat_1.png;A;B\n7_c1;C;\ngone.png;D;\n", "s.csv")
    path, counts = make_manifest(str(photos), table)
    assert counts == {"photos": 3, "without a caption": 1, "captions without a photo": 1}
    found = read(path)
    assert found["red_coat_1.png"][1] == ["A", "B"] and found["7_c1.png"][1] == ["C"]


def test_a_name_that_two_photos_have(photos, write):
    (photos / "berta" / "7_c1.png").write_bytes((photos / "7_c1.png").read_bytes())
    with pytest.raises(ValueError, match=r"line 2: '7_c1' is 7_c1.png and berta/7_c1.png; write"):
        make_manifest(str(photos), write("file,caption\n7_c1,x\n", "s.csv"))


def test_one_line_mistakes(photos, capsys, tmp_path):
    command.main(["make", str(photos)])
    assert "3 photos, 3 without a caption" in capsys.readouterr().out
    for arguments, said in (
        (["make", str(photos)], "manifest.csv exists; move it away"),
        (["make", str(tmp_path / "photo")], "no such folder of photos; did you mean"),
        (["make", str(photos / ".hidden" / "none")], "no such folder of photos"),
        (["make", str(photos), "--captions=s.csv", "--output=x.csv"], "no such table of captions"),
    ):
        with pytest.raises(SystemExit) as error:
            command.main(arguments)
        assert said in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="has no photo; expected .jpg"):
        command.main(["make", str(tmp_path / "empty")])


def test_help_teaches_and_starts_without_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not to be imported')")
    root = pathlib.Path(__file__).parents[3]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"}
    line = [sys.executable, "-W", "error", "-m", "data_pipelines.manifest", "--help"]
    done = subprocess.run(line, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "data.name=manifest" in done.stdout and not done.stderr
