"""hf://OWNER/NAME: what an address means, and one line for whatever can go wrong. No Hub is asked:
a folder stands in for it.
"""

import dataclasses
import fnmatch
import json
import shutil
import sys
from pathlib import Path

import httpx2
import jax
import pytest
from clip_models import hugging_face, openai_clip
from safetensors.numpy import save_file

from tests.inference.test_exported import export_of, make
from tests.pretrained.test_settings import hf_config
from tipr_jax import checkpoints, convert, hub, main, paths
from tipr_jax.gallery import __main__ as gallery
from tipr_jax.gallery.models import open_model
from tipr_jax.inference import artifact

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
errors = pytest.importorskip("huggingface_hub.errors")


class Folder:
    """Repositories as folders: root/OWNER/NAME/REVISION/..."""

    def __init__(self, root: Path, cache: Path):
        self.root, self.cache = root, cache

    def _revision(self, repository, revision) -> Path:
        if not (self.root / repository).is_dir():
            raise errors.RepositoryNotFoundError("404 Client Error.", response=response())
        if not (found := self.root / repository / (revision or "main")).is_dir():
            raise errors.RevisionNotFoundError("404 Client Error.", response=response())
        return found

    def snapshot_download(self, repo_id, revision, allow_patterns, ignore_patterns):
        source = self._revision(repo_id, revision)
        target = self.cache / repo_id / (revision or "main")
        target.mkdir(parents=True, exist_ok=True)
        for path in source.rglob("*"):
            name = str(path.relative_to(source))
            wanted = any(fnmatch.fnmatch(name, p) for p in allow_patterns or ["*"])
            if path.is_file() and wanted:
                if not any(fnmatch.fnmatch(name, p) for p in ignore_patterns):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target / name)
        return str(target)


def response(status: int = 404) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


@pytest.fixture
def repositories(tmp_path, monkeypatch) -> Path:
    """Where to put repositories: OWNER/NAME/REVISION below it."""
    folder = Folder(tmp_path / "hub", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", folder.snapshot_download)
    (folder.root / "me" / "model" / "main" / "sub").mkdir(parents=True)
    (folder.root / "me" / "model" / "v2").mkdir()
    for name in ("main/a.pth", "main/tf_model.h5", "main/sub/b.pth", "v2/a.pth", "main/sub/c.pth"):
        (folder.root / "me" / "model" / name).write_text(name)
    return folder.root


ADDRESSES = {
    "hf://me/model": ("me/model", "", ""),
    "hf:/me/model/": ("me/model", "", ""),
    "hf://me/model/a.pth": ("me/model", "", "a.pth"),
    "hf://me/my.model-b_16/sub/dir/a.pth": ("me/my.model-b_16", "", "sub/dir/a.pth"),
    "hf://me/model@v2": ("me/model", "v2", ""),
    "hf://me/model@v2/sub/a.pth": ("me/model", "v2", "sub/a.pth"),
    "hf://me/model@refs/pr/7/a.pth": ("me/model", "refs/pr/7", "a.pth"),
    "hf://me/model@refs/pr/7": ("me/model", "refs/pr/7", ""),
}


@pytest.mark.parametrize("given", ADDRESSES)
def test_addresses(given):
    assert hub.parse(given, "--model") == ADDRESSES[given]


@pytest.mark.parametrize(
    "given",
    [
        *("hf://me", "hf://", "hf:///me/model", "hf://me/model@", "hf://me/model@a@b"),
        *("hf://me/../x", "hf://me/model/../../etc/passwd", "hf://-me/model", "hf://me/mo del"),
    ],
)
def test_malformed_addresses(given):
    with pytest.raises(ValueError, match="^--model=hf:.*: not an address of the Hub; expected hf"):
        paths.model_path(given, "--model")


def test_files_and_folders(repositories):
    file = paths.model_path("hf://me/model/sub/b.pth", "--input")
    assert file.read_text() == "main/sub/b.pth"
    assert [path.name for path in file.parent.iterdir()] == ["b.pth"]
    assert paths.model_path("hf://me/model@v2/a.pth", "--input").read_text() == "v2/a.pth"
    folder = paths.model_path(Path("hf://me/model"), "--input")
    assert {path.name for path in folder.iterdir()} == {"a.pth", "sub"}  # no weights of TensorFlow
    assert {p.name for p in paths.model_path("hf://me/model@main/sub", "-").iterdir()} == {
        "b.pth",
        "c.pth",
    }


def test_local_paths_stay():
    assert paths.model_path("runs/hf", "--model") == Path("runs/hf")
    with pytest.raises(ValueError, match="--model=gs://bucket/run: an address"):
        paths.model_path("gs://bucket/run", "--model")


MISSING = {
    "hf://me/nothing": "no such repository, or a private one without a token",
    "hf://me/model@v3": "the repository has no such revision",
    "hf://me/model/c.pth": "me/model has no file or folder 'c.pth'",
    "hf://me/model/sub/nowhere": "me/model has no file or folder 'sub/nowhere'",
}


@pytest.mark.parametrize("given", MISSING)
def test_what_is_not_there(repositories, given):
    with pytest.raises(ValueError, match=f"^--model={given}: {MISSING[given]}"):
        paths.model_path(given, "--model")


RAISED = {
    "HF_HUB_OFFLINE is set": lambda: errors.OfflineModeIsEnabled("Cannot reach"),
    "the Hub is not to be reached": lambda: errors.LocalEntryNotFoundError("We cannot find"),
    "its owner must admit you": lambda: errors.GatedRepoError("403", response=response(403)),
    "the Hub refused or is out of reach": lambda: errors.HfHubHTTPError(
        "500 Server Error\nfor url", response=response(500)
    ),
    "out of reach": lambda: httpx2.ConnectError("no route"),
}


@pytest.mark.parametrize("message", RAISED)
@pytest.mark.parametrize("given", ["hf://me/model", "hf://me/model/a.pth"])
def test_errors_of_the_library(monkeypatch, message, given):
    def fail(*args, **kwargs):
        raise RAISED[message]()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=f"^--model={given}: .*{message}[^\n]*$"):
        paths.model_path(given, "--model")


@pytest.mark.parametrize("given", ["hf://me/model", "hf://me/model/a.pth"])
def test_offline_by_the_library_itself(monkeypatch, given, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=f"^--model={given}: (HF_HUB_OFFLINE|not in the cache)"):
        paths.model_path(given, "--model")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"^--model=hf:.*: pip install 'tipr_jax\[hub\]'$"):
        paths.model_path("hf://me/model", "--model")


def test_convert_from_the_hub(repositories, tmp_path, monkeypatch):
    """A released file is one command, and so is its folder."""
    model = make("ivt")
    fields = {"method": model.method, "model": dataclasses.asdict(model.config)}
    checkpoints.save_params(tmp_path / "own", model.params, fields)
    released = repositories / "released" / "ivt" / "main" / "CUHK-PEDES" / "best.safetensors"
    convert.main(
        ["--method=ivt", "--reverse", f"--input={tmp_path / 'own'}", f"--output={released}"]
    )
    address = "hf://released/ivt/CUHK-PEDES/best.safetensors"
    for given in (address, address.rpartition("/")[0]):  # the file, and its folder
        output = tmp_path / given.rpartition("/")[2]
        size = ",".join(map(str, model.image_size))
        convert.main(["--method=ivt", f"--input={given}", f"--output={output}",
                      f"--image_size={size}"])  # fmt: skip
        assert (output / "params").is_dir()
    with pytest.raises(SystemExit, match="^error: --input=hf://me/none: no such repository"):
        convert.main(["--method=ivt", "--input=hf://me/none", f"--output={tmp_path}/x"])


@pytest.mark.parametrize("address", ["hf://openai/clip", "hf://openai/clip/model.safetensors"])
def test_what_stands_beside_a_file_is_fetched(repositories, tmp_path, address):
    """The activation of a CLIP is not in its weights, but in the config.json beside them."""
    folder = repositories / "openai" / "clip" / "main"
    folder.mkdir(parents=True)
    save_file(hugging_face(openai_clip(vision=128)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(128, 2, "gelu")))
    output = tmp_path / "out"
    convert.main(["--method=openai_clip", f"--input={address}", f"--output={output}",
                  "--image_size=24,24"])  # fmt: skip
    assert json.loads((output / "config.json").read_text())["model"]["activation"] == "gelu"


def test_galleries_and_python_take_addresses(repositories, tmp_path, monkeypatch):
    model = make("ivt")
    target = repositories / "me" / "exported" / "main"
    target.mkdir(parents=True)
    export_of(model, target)
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # on several, programs are not used
    assert open_model("hf://me/exported").fingerprint == model.fingerprint
    with pytest.raises(SystemExit, match="--model=hf://me/nothing: no such repository"):
        place = str(tmp_path / "my.gallery")
        gallery.main(["add", str(tmp_path), "--model=hf://me/nothing", f"--gallery={place}"])


def test_training_starts_from_addresses(repositories, tiny_config, tmp_path):
    tiny_config.init_from = "weights/local,hf://me/model@v2"
    found = str(paths.with_local_paths(tiny_config).init_from).split(",")
    assert found[0] == "weights/local" and (Path(found[1]) / "a.pth").read_text() == "v2/a.pth"
    tiny_config.init_from = "hf://me/nothing"
    with pytest.raises(ValueError, match="--config.init_from=hf://me/nothing: no such repository"):
        main.run(tiny_config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()


class Api:
    """Stands for HfApi: notes what is uploaded."""

    private = False
    calls: list = []  # noqa: RUF012

    def create_repo(self, repo_id, private=None, exist_ok=False):
        self.calls.append(("create", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def repo_info(self, repo_id):
        return type("Info", (), {"private": self.private})

    def upload_folder(self, folder_path, repo_id):
        self.calls.append(("upload", folder_path, repo_id))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(Api, "calls", [])
    return Api


def test_push(api, tmp_path, monkeypatch):
    url = hub.push(tmp_path, "hf://me/model")
    assert url == "https://huggingface.co/me/model"
    assert api.calls == [
        ("create", "me/model", None, True),
        ("upload", str(tmp_path), "me/model"),
    ]
    monkeypatch.setattr(api, "private", True)
    hub.push(tmp_path, "hf://me/model", private=True)
    assert api.calls[2][2] is True


def test_nothing_private_becomes_public(api, tmp_path):
    with pytest.raises(ValueError, match="exists and is public, --private was asked for"):
        hub.push(tmp_path, "hf://me/model", private=True)
    assert [call[0] for call in api.calls] == ["create"]


@pytest.mark.parametrize("address", ["hf://me/model@v2", "hf://me/model/folder"])
def test_push_to_a_part(api, tmp_path, address):
    with pytest.raises(ValueError, match="a whole repository is written; expected hf://OWNER/NAME"):
        hub.push(tmp_path, address)
    assert not api.calls


def test_push_without_a_token(api, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="no token of the Hub; log in with `hf auth login`"):
        hub.push(tmp_path, "hf://me/model")


def test_push_of_something_else(api, tmp_path):
    """A directory that does not pass its own check is not uploaded; nor to an unknown place."""
    with pytest.raises(SystemExit, match="golden.safetensors cannot be read"):
        artifact.main(["push", str(tmp_path), "hf://me/model"])
    with pytest.raises(SystemExit, match="push=me/model: not an address of the Hub"):
        artifact.main(["push", str(tmp_path), "me/model"])
    assert not api.calls
