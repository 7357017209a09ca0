"""An exported directory checks itself, tells what it is, and serves programs without tipr_jax."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.inference.test_exported import SENTENCES, make, random_model
from tipr_jax import checkpoints, convert, run_files
from tipr_jax.inference import artifact, card, golden, onnx_programs
from tipr_jax.inference.exported import ExportedModel
from tipr_jax.inference.model import TrainedModel, load
from tipr_jax.models import bi_irra
from tipr_jax.param_tree import flatten
from tipr_jax.pretrained import files
from tipr_jax.text import save_tokenizer, xlm_roberta

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
METHODS = ["irra", "ivt", "bi_irra"]
RESULTS = {
    "split": "test",
    "step": 1,
    "t2i": {"R1": 53.75, "R5": 83.0, "mAP": 51.813},
    "selected_on": "val",
    "gallery": "unique",
    "others": {"last epoch": {"split": "test", "step": 1, "t2i": {"R1": 53.75, "R5": 83.0}}},
}


def run_of(model: TrainedModel, workdir: Path) -> Path:
    """A run directory whose best checkpoint is this model."""
    with checkpoints.Checkpoints(workdir) as saved:
        saved.save(1, {"params": model.params})
    config = {
        "method": model.method,
        "model": {},
        "data": {"name": "synth_pedes", "test_resize": model.test_resize},
        "eval": {"select_on": "val", "select_by": "R1"},
        "init_from": "/home/someone/weights/clip_b16",
        run_files.MODEL_CONFIG: dataclasses.asdict(model.config),
        run_files.DATA_FACTS: {"languages": ["en"]},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps(RESULTS))
    save_tokenizer(model.tokenizer, workdir)
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    return {name: run_of(make(name), tmp_path_factory.mktemp(name) / "run") for name in METHODS}


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for name, workdir in runs.items():
        artifact.export_run(workdir, folder / name, licence="research only")
    return {name: folder / name for name in METHODS}


@pytest.fixture
def copy(exports, tmp_path):
    return lambda name="ivt": Path(shutil.copytree(exports[name], tmp_path / "copy"))


@pytest.mark.parametrize("name", METHODS)
def test_verify_prints_a_line_per_program(exports, name, capsys):
    artifact.main(["verify", str(exports[name])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "SHA-256", "of", "all", "files"]
    assert all(line.startswith("ok ") for line in lines)
    model = ExportedModel(exports[name])
    named = {line.split()[1] for line in lines[1:]}
    assert named == {f"programs/{name}" for name in model.programs} | {
        *("tokenizer", "tokenizer.json", "test_resize", "preprocessor_config.json")
    }
    assert ("programs/match" in named) == model.can_match


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


CHANGED = {
    "model.safetensors": flipped,
    "programs/encode_text.jax_export": flipped,
    "tokenizer.json": flipped,
    "tokenizer/vocab.txt": flipped,
    "preprocessor_config.json": flipped,
    "config.json": flipped,
    "params/_METADATA": flipped,
    "programs/encode_image.jax_export": Path.unlink,
}


@pytest.mark.parametrize("file", CHANGED)
def test_verify_names_a_changed_file(copy, file, capsys):
    directory = copy()
    CHANGED[file](directory / file)
    what = "is missing" if CHANGED[file] is Path.unlink else "has changed"
    with pytest.raises(SystemExit, match=f"^error: .*copy: {file} {what} since the export; .*$"):
        artifact.main(["verify", str(directory)])


def test_other_notes_in_the_card_are_no_damage(copy):
    directory = copy()
    (directory / "README.md").write_text("mine")
    artifact.check(directory, say=lambda _: None)


def sealed(directory: Path) -> None:
    """Makes the digests those of the files as they are, so that only what they compute is wrong."""
    golden.write(directory, golden.read(directory)[0])


def other_weight(directory):
    weights = load_file(directory / "model.safetensors")
    name = "image_encoder/proj"
    save_file(weights | {name: weights[name] * 1.5}, directory / "model.safetensors")


def other_program(directory):
    programs = directory / "programs"
    shutil.copy(programs / "encode_image.jax_export", programs / "encode_text.jax_export")


def other_value(file, old, new):
    def change(directory):
        text = (directory / file).read_text("utf-8")
        assert old in text
        (directory / file).write_text(text.replace(old, new), "utf-8")

    return change


WRONG = {
    "programs/encode_image ": other_weight,
    "test_resize ": other_value("config.json", '"bicubic"', '"bilinear"'),
    "preprocessor_config.json ": other_value(
        "preprocessor_config.json", '"resample": 3', '"resample": 2'
    ),
    "tokenizer.json ": other_value("tokenizer.json", '"lowercase":true', '"lowercase":false'),
}


@pytest.mark.parametrize("name", WRONG)
def test_verify_names_what_computes_other_numbers(copy, name, capsys):
    directory = copy("irra" if WRONG[name] is other_weight else "ivt")
    WRONG[name](directory)
    sealed(directory)
    with pytest.raises(SystemExit) as raised:
        artifact.main(["verify", str(directory)])
    assert f"does not give what it gave when it was exported: {name}" in str(raised.value)
    failed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == [name.strip()]


def test_a_program_for_other_inputs_is_one_line(copy):
    directory = copy()
    other_program(directory)
    sealed(directory)
    with pytest.raises(SystemExit, match="^error: .*encode_text.* does not run"):
        artifact.main(["verify", str(directory)])


@pytest.mark.parametrize("name", METHODS)
def test_the_goldens_are_of_the_modules(exports, runs, name, monkeypatch):
    """They are what `TrainedModel` gives, so programs that are wrong do not agree with them."""
    arrays, _, _ = golden.read(exports[name])
    model = load(runs[name])
    np.testing.assert_allclose(model.encode_image(np.repeat(arrays["image"], 2, 0))[::2],
                               arrays["encode_image"], rtol=0, atol=1e-4)  # fmt: skip
    assert np.abs(arrays["encode_image"]).max() > 0.1
    assert ("match" in arrays) == model.can_match


def test_verify_of_something_else(tmp_path):
    with pytest.raises(SystemExit, match="error: .*nowhere: no such directory"):
        artifact.main(["verify", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="golden.safetensors cannot be read"):
        artifact.main(["verify", str(tmp_path)])
    (tmp_path / golden.FILE).write_bytes(b"junk")
    with pytest.raises(SystemExit, match="golden.safetensors cannot be read"):
        artifact.main(["verify", str(tmp_path)])


def bilingual() -> TrainedModel:
    """Bi-IRRA as released: one projection for two languages."""
    tokenizer = xlm_roberta.train(SENTENCES, 150)
    config = bi_irra.Config.tiny(losses=("itm",), languages=("en", "zh"))
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    return random_model("bi_irra", config, tokenizer)


@pytest.mark.parametrize("name", METHODS)
def test_official_names(name, tmp_path):
    """They are what `convert --reverse` writes."""
    workdir = run_of(bilingual() if name == "bi_irra" else make(name), tmp_path / "run")
    artifact.export_run(workdir, tmp_path / "out", names="official")
    official = load_file(tmp_path / "out" / "model.safetensors")
    convert.main(
        [f"--method={name}", "--reverse", f"--input={workdir}", f"--output={tmp_path}/x.pth"]
    )
    wanted = files.read_state_dict(tmp_path / "x.pth")
    assert set(official) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(official[key], value)
    assert not (tmp_path / "out" / "programs").exists()
    assert load(tmp_path / "out").fingerprint == load(workdir).fingerprint
    artifact.main(["verify", str(tmp_path / "out")])
    flipped(tmp_path / "out" / "model.safetensors")
    with pytest.raises(SystemExit, match="model.safetensors has changed"):
        artifact.main(["verify", str(tmp_path / "out")])


def test_official_names_that_a_model_does_not_fit(runs, tmp_path):
    with pytest.raises(ValueError, match="it cannot be written under the released names"):
        artifact.export_run(runs["bi_irra"], tmp_path / "out", names="official")
    assert not (tmp_path / "out").exists()


def test_official_names_of_a_method_without():
    with pytest.raises(ValueError, match="no official names are known for 'mine', only for .*ivt"):
        artifact.official_names("mine", {})


def test_the_card(exports, runs, tmp_path):
    text = (exports["ivt"] / "README.md").read_text("utf-8")
    assert "| ivt".upper() not in text and "# ivt on synth_pedes" in text
    for part in (
        *("synth_pedes", "research only", "the best on `val` by R1", "clip_b16", "Out of scope"),
        *("| last epoch (step 1) | test | text to image | 53.75 | 83.00 |", "uint8"),
    ):
        assert part in text, part
    assert "someone" not in text  # no path of the machine that it was trained on
    assert text.count("```") % 2 == 0


def test_the_card_on_the_hub(exports):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exports["ivt"] / "README.md").data
    assert data.library_name == "tipr_jax" and data.language == ["en"] and data.license == "other"
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {
        **{"R1": 53.75, "R5": 83.0, "mAP": 51.81}
    }


def test_the_card_without_huggingface_hub(runs, exports, tmp_path, monkeypatch):
    monkeypatch.setattr(card.importlib.util, "find_spec", lambda name: None)
    shutil.copy(exports["ivt"] / "config.json", tmp_path)
    (runs["ivt"] / "results.json").rename(tmp_path / "results.json")
    card.write(tmp_path, load(runs["ivt"]), runs["ivt"])
    (tmp_path / "results.json").rename(runs["ivt"] / "results.json")
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("# ivt on") and "nothing was measured" in text and "unknown: ask" in text


ORBAX = """
import sys
import orbax.checkpoint as ocp
params = ocp.PyTreeCheckpointer().restore(sys.argv[1])
def leaves(tree, path=""):
    for key, value in tree.items():
        inside = isinstance(value, dict)
        yield from leaves(value, path + key + "/") if inside else [(path + key, value)]
assert not [name for name in sys.modules if name.startswith("tipr_jax")]
print(*(f"{path} {abs(value).sum():.6e}" for path, value in sorted(leaves(params))), sep="\\n")
"""
# Packages of this project's environment that the example must do without.
BLOCK = """
import sys
from importlib.abc import MetaPathFinder
class Blocked(MetaPathFinder):
    names = set(sys.argv.pop(1).split(","))
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked by the test")
sys.meta_path.insert(0, Blocked())
import runpy
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def elsewhere(code: str, *arguments: str, cwd: Path) -> str:
    """Output of code in another directory, with one CPU device."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_orbax_alone_restores_the_parameters(exports, tmp_path):
    out = elsewhere(ORBAX, str(exports["ivt"] / "params"), cwd=tmp_path)
    params = flatten(checkpoints.load_params(exports["ivt"])[1])
    wanted = [f"{path} {np.abs(value).sum():.6e}" for path, value in sorted(params.items())]
    assert out.split("\n")[:-1] == wanted


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for i in range(5):
        pixels = rng.integers(0, 256, (50 + i, 21, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def ranking(model, photos, sentence):
    files = sorted(photos.iterdir())
    scores = model.embed_images([str(f) for f in files]) @ model.embed_texts([sentence])[0]
    return [(str(files[i]), scores[i]) for i in np.argsort(-scores, kind="stable")]


def check_example(script, blocked, directory, run, photos, cwd):
    sentence = "a man's coat, red"
    arguments = [str(EXAMPLES / script), str(directory), str(photos), sentence]
    out = elsewhere(BLOCK, blocked, *arguments, cwd=cwd)
    found = [line.split() for line in out.splitlines()]
    wanted = ranking(load(run), photos, sentence)
    assert [path for _, path in found] == [path for path, _ in wanted]
    scores = [float(score) for score, _ in found]
    np.testing.assert_allclose(scores, [score for _, score in wanted], rtol=0, atol=1e-5)


def packages_but(*needed: str) -> str:
    """Every installed package outside of the needed ones and of what these bring."""
    import importlib.metadata

    kept = {"numpy", "PIL", "tokenizers", "ml_dtypes", "opt_einsum", "scipy", "jaxlib"} | {*needed}
    found = {name for name in importlib.metadata.packages_distributions() if name.isidentifier()}
    return ",".join(sorted(found - kept) + ["tipr_jax", "data_pipelines", "configs"])


@pytest.mark.parametrize("name", METHODS)
def test_search_without_the_project(exports, runs, name, photos, tmp_path):
    blocked = packages_but("jax", "safetensors", "flatbuffers", "jax_cuda12_plugin")
    assert {"flax", "orbax", "optax", "ftfy", "regex", "sentencepiece", "absl"} < {
        *blocked.split(",")
    }
    check_example("search_exported.py", blocked, exports[name], runs[name], photos, tmp_path)


def test_onnx_needs_its_extra(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r"^ONNX needs jax2onnx .*pip install 'tipr_jax\[onnx\]'$"):
        artifact.export_run(runs["ivt"], tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHODS)
def test_onnx(runs, name, photos, tmp_path, capsys):
    pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    artifact.export_run(runs[name], tmp_path / "out", onnx=True)
    artifact.main(["verify", str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "onnx/" in line]
    assert len(lines) == len(ExportedModel(tmp_path / "out").programs)
    assert all(line.startswith("ok ") for line in lines)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "search_onnx.py" in text
    blocked = packages_but("onnxruntime", "flatbuffers") + ",jax,safetensors"
    check_example("search_onnx.py", blocked, tmp_path / "out", runs[name], photos, tmp_path)
    for path in onnx_programs.found(tmp_path / "out").values():
        path.write_bytes(b"junk")
    sealed(tmp_path / "out")
    with pytest.raises(SystemExit, match="onnx cannot be run .*; export the model again"):
        artifact.main(["verify", str(tmp_path / "out")])
