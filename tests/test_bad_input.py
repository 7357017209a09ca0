"""What a user sees after a mistake: one line that says what to change, and nothing half-written."""

import dataclasses
import json
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from machine import HANGS

from tipr_jax import checkpoints, experiment, main, run_files, trainer

ROOT = Path(__file__).resolve().parents[1]


def refusal(config, workdir: Path, mode: str = "train") -> str:
    """The line with which `run` refuses; checks that it is one and what it leaves behind."""
    with pytest.raises((ValueError, OSError)) as caught:
        main.run(config, workdir, mode)
    message = str(caught.value)
    assert message and "\n" not in message and "Traceback" not in message
    assert_nothing_half_written(workdir, Path(config.data.root))
    return message


def assert_nothing_half_written(*directories: Path) -> None:
    for path in (p for directory in directories for p in directory.rglob("*")):
        assert not any(sign in path.name for sign in ("partial", "tmp")), path
        if path.name == "config.json":
            json.loads(path.read_text())
        if path.name == "metrics.jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        assert path.name not in ("results.json", "report.html", "embeddings", "export"), path


@pytest.fixture
def data_set(tiny_root, tiny_config, tmp_path) -> Path:
    """A copy of the data set that `tiny_config` reads, to be damaged."""
    shutil.copytree(tiny_root, tmp_path / "data")
    tiny_config.data.root = str(tmp_path / "data")
    return tmp_path / "data" / "CUHK-PEDES"


def edit(data_set: Path, split: str, **fields) -> dict:
    """Changes the first annotation entry of a split."""
    path = data_set / "reid_raw.json"
    entries = json.loads(path.read_text())
    entry = next(e for e in entries if e["split"] == split)
    entry |= fields
    path.write_text(json.dumps(entries))
    return entry


# Data sets


def test_no_data_set(tiny_config, tmp_path):
    tiny_config.data.root = str(tmp_path / "nowhere")
    message = refusal(tiny_config, tmp_path / "run")
    for part in (f"{tmp_path}/nowhere/CUHK-PEDES", "--config.data.root", ":quickstart", "https://"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_truncated_annotations(tiny_config, data_set, tmp_path):
    path = data_set / "reid_raw.json"
    path.write_bytes(path.read_bytes()[:-200])
    message = refusal(tiny_config, tmp_path / "run")
    assert str(path) in message and "truncated" in message and "fetch it again" in message
    assert not (tmp_path / "run").exists()


def test_annotations_of_another_data_set(tiny_config, data_set, tmp_path):
    entry = {"id": 0, "img_path": "a.jpg", "captions": ["A man."], "split": "train"}
    (data_set / "reid_raw.json").write_text(json.dumps([entry]))
    message = refusal(tiny_config, tmp_path / "run")
    assert "RSTPReid" in message and "--config.data.name=rstp_reid" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"captions": ["A man.", 7]}, ["caption 1 must be a string, found 7"]),
        ({"id": 2**31}, ["id 2147483648 is outside"]),
        ({"file_path": "../../secret.jpg"}, ["'../../secret.jpg' leaves imgs/"]),
        ({"file_path": "/etc/passwd"}, ["'/etc/passwd' leaves imgs/"]),
    ],
)
def test_bad_annotation(tiny_config, data_set, tmp_path, fields, expected):
    edit(data_set, "train", **fields)
    message = refusal(tiny_config, tmp_path / "run")
    assert all(part in message for part in [str(data_set / "reid_raw.json"), *expected]), message
    assert not (tmp_path / "run").exists()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be this large and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, "no such image file"),
        (b"not an image", "not a readable image (JPEG, PNG, BMP, WEBP); replace the file"),
        (b"", "empty image file (0 bytes); replace the file"),
        (png_header(60_000, 60_000), "use a smaller image"),
    ],
    ids=["missing", "corrupt", "zero_bytes", "pixel_bomb"],
)
def test_bad_image_while_training(tiny_config, data_set, tmp_path, monkeypatch, content, expected):
    # The evaluation before the first step reads other images, and compiles for seconds.
    monkeypatch.setattr(trainer, "evaluate", lambda *_: {})
    tiny_config.model.losses = ("itc",)
    path = data_set / "imgs" / edit(data_set, "train")["file_path"]
    path.unlink() if content is None else path.write_bytes(content)
    message = refusal(tiny_config, tmp_path / "run")
    assert str(path) in message and expected in message
    assert not run_files.is_run(tmp_path / "run")


def test_bad_image_while_evaluating(tiny_config, data_set, tmp_path):
    path = data_set / "imgs" / edit(data_set, "val")["file_path"]
    path.write_bytes(path.read_bytes()[:-50])
    message = refusal(tiny_config, tmp_path / "run")
    assert str(path) in message and "damaged image" in message


# Checkpoints


def converted(directory: Path, tree: dict | None = None, **config) -> str:
    """A small model directory; `config` replaces fields of its config.json."""
    config = {"method": "irra", "model": {"embed_dim": 128}} | config
    checkpoints.save_params(directory, tree or {"image_encoder": {"proj": np.zeros(2)}}, config)
    return str(directory)


@pytest.mark.parametrize("mode", ["train", "eval", "embed"])
def test_init_from_something_else(tiny_config, tmp_path, mode):
    tiny_config.init_from = str(tmp_path / "hub")
    assert "hub: no such run or model directory" in refusal(tiny_config, tmp_path / "run", mode)
    (tmp_path / "hub").mkdir()
    assert "no config.json in it" in refusal(tiny_config, tmp_path / "run", mode)
    (tmp_path / "hub" / "config.json").write_text('{"architectures": ["CLIPModel"]}')
    message = refusal(tiny_config, tmp_path / "run", mode)
    assert "hub/config.json is not the config" in message and "tipr_jax.convert" in message
    assert not (tmp_path / "run").exists()


def test_init_from_another_method(tiny_config, tmp_path):
    tiny_config.init_from = converted(tmp_path / "blip", method="blip")
    message = refusal(tiny_config, tmp_path / "run")
    assert "checkpoint of 'blip'" in message and "config is for 'irra'" in message
    assert not (tmp_path / "run").exists()


def test_init_from_another_size(tiny_config, tmp_path):
    """Sizes are adopted from config.json, so only a directory that contradicts itself is left."""
    tiny_config.init_from = converted(tmp_path / "weights")
    message = refusal(tiny_config, tmp_path / "run")
    assert "weights does not fit the model" in message and "nothing given" in message
    assert not run_files.is_run(tmp_path / "run")


def test_init_from_damaged_files(tiny_config, tmp_path):
    tiny_config.init_from = converted(tmp_path / "weights", model={})
    for path in (tmp_path / "weights" / "params").rglob("*"):
        if path.is_file() and path.name != "_METADATA":
            path.write_bytes(b"")
    message = refusal(tiny_config, tmp_path / "run")
    assert "weights/params is not a readable checkpoint" in message


def run_of(config, workdir: Path) -> None:
    """What training with `config` leaves after step 1."""
    exp = experiment.build(config, num_persons=12)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=1)
    abstract = experiment.abstract_state(exp, optimizer)
    with checkpoints.Checkpoints(workdir) as saved:
        _, state = trainer.restore_or_init(exp, optimizer, abstract, saved)
        saved.save(1, state.as_tree())
    run_files.save_config(config, workdir, dataclasses.asdict(exp.model_config))


def test_workdir_of_another_model(tiny_config, tmp_path):
    """The run that is refused keeps its own config, and can be exported; but only once."""
    workdir, config = tmp_path / "run", tiny_config
    config.model.losses = ("itc",)
    run_of(config, workdir)
    before = (workdir / "config.json").read_text()
    config.model.vision_depth = 2
    with pytest.raises(ValueError, match="holds another model .* use the config of that run or an"):
        main.run(config, workdir, "train")
    assert (workdir / "config.json").read_text() == before
    main.run(config, workdir, "export")
    with pytest.raises(ValueError, match="export exists and is not empty; remove it or"):
        main.run(config, workdir, "export")
    assert_nothing_half_written(workdir / "export")


def test_workdir_of_another_method(tiny_config, tmp_path):
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    config = tiny_config.to_dict() | {"method": "blip"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert "checkpoint of 'blip'" in refusal(tiny_config, tmp_path / "run", "eval")


@pytest.mark.parametrize("mode", ["eval", "embed", "export"])
def test_nothing_trained(tiny_config, tmp_path, mode):
    message = refusal(tiny_config, tmp_path / "run", mode)
    assert f"{tmp_path}/run has no checkpoints" in message and "train first" in message
    assert not (tmp_path / "run").exists()


def test_workdir_is_a_file(tiny_config, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "is a file; use a directory" in refusal(tiny_config, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


# Config values


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("data.batch_size", 20, ["data.batch_size 20", "8 devices", "--config.data.batch_size=16"]),
        ("data.batch_size", 0, ["data.batch_size 0", "--config.data.batch_size=8"]),
        ("eval.batch_size", 20, ["eval.batch_size 20", "--config.eval.batch_size=16"]),
        ("mesh.model", 3, ["model=3 does not cover 8 devices", "--config.mesh.model"]),
        ("mesh.model", 0, ["model=0 does not cover 8 devices", "--config.mesh.model"]),
        ("mesh.rules", "zero", ["mesh.rules is 'zero'", "fully_sharded"]),
        ("eval.splits", ("tset",), ["eval.splits is ('tset',)", "['train', 'val', 'test']"]),
        ("eval.select_on", "validation", ["eval.select_on is 'validation'", "['val', 'test']"]),
        ("data.name", "cuhk", ["data.name 'cuhk' is unknown", "cuhk_pedes"]),
        ("data.image_size", (4, 16), ["image_size (4, 16) is smaller than the patch size"]),
        ("data.image_size", (32,), ["data.image_size is (32,)", "(384, 128)"]),
        ("schedule.num_epochs", 0, ["schedule.num_epochs 0 must exceed"]),
        ("log_every_steps", 0, ["log_every_steps is 0", "at least 1"]),
        ("eval.every_epochs", 0, ["eval.every_epochs is 0", "at least 1"]),
        ("checkpoint.every_steps", 0, ["checkpoint.every_steps is 0", "at least 1"]),
    ],
)
def test_bad_value(tiny_config, tmp_path, field, value, expected):
    section, _, name = field.rpartition(".")
    holder = tiny_config[section] if section else tiny_config
    with holder.ignore_type():
        holder[name] = value
    message = refusal(tiny_config, tmp_path / "run")
    assert all(part in message for part in expected), message
    assert not (tmp_path / "run").exists()


# The command line


def command(*arguments: str) -> str:
    """The single line on standard error of a `tipr_jax.main` that fails."""
    result = subprocess.run(
        [sys.executable, "-m", "tipr_jax.main", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# Answers many command lines with one import of the package: every line of stdin is a JSON list, and
# a fork runs the command as `python -m tipr_jax.main` does.
FORKING = """
import json, os, sys, tempfile
from absl import app
from configs import irra
from tipr_jax import command_line, main
for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        if not (child := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            sys.argv = ["main.py", *json.loads(line)]
            app.run(main.main, flags_parser=command_line.parse)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, error)]
    print(json.dumps([code, *texts]), flush=True)
"""


@pytest.fixture(scope="module")
def forked_command():
    """Like `command`, in a tenth of the time."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run(*arguments: str) -> str:
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            code, out, error = json.loads(process.stdout.readline())
            assert code == 1 and out == ""
            assert error.startswith("error: ") and error.count("\n") == 1, error
            return error

        yield run


CONFIG, QUICKSTART = "--config=configs/irra.py", "--config=configs/irra.py:quickstart"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([CONFIG, "--config.optimiser.lr=1"], ["config has no field 'optimiser'", "optimizer"]),
        ([CONFIG, "--config.optimizer.lr=1"], ["config.optimizer has no field 'lr'", "rate"]),
        ([CONFIG, "--config.seed.x=1"], ["config.seed is a value", "--config.seed=VALUE"]),
        ([CONFIG, "--config.data.batch_size=ten"], ["--config.data.batch_size=ten", "int"]),
        (["--config=configs/irra.py:quikstart"], ["variant 'quikstart'", "'quickstart'"]),
        (["--config=configs/nope.py"], ["configs/nope.py: no such file", QUICKSTART]),
        (["--config=tipr_jax/batch.py"], ["batch.py: not a config file", "get_config()"]),
        ([], ["--config is missing", QUICKSTART]),
        ([CONFIG, "--mode=trian"], ["--mode=trian", "<train|eval|embed|export>"]),
        ([CONFIG, "--modus=eval"], ["Unknown command line flag 'modus'"]),
        ([CONFIG, "eval"], ["unexpected 'eval'", "--workdir="]),
    ],
)  # fmt: skip
def test_command_line(forked_command, tmp_path, arguments, expected):
    message = forked_command(f"--workdir={tmp_path / 'run'}", *arguments)
    assert all(part in message for part in expected), message
    assert not (tmp_path / "run").exists()


def test_command_line_without_workdir():
    message = command(QUICKSTART)
    assert "--workdir is missing" in message and "--workdir=runs/quickstart" in message


def test_command_line_without_data(tmp_path):
    root = f"--config.data.root={tmp_path}"
    message = command(CONFIG, f"--workdir={tmp_path / 'run'}", root)
    assert "CUHK-PEDES not found" in message and str(tmp_path) in message
    assert list(tmp_path.iterdir()) == []
