"""Weights go in and out unchanged; a wrong file is a one-line error that leaves nothing behind."""

import pickle
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from clip_models import hugging_face, official_irra, openai_clip
from safetensors.numpy import load_file, save_file

from tipr_jax import convert
from tipr_jax.checkpoints import load_params
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config
from tipr_jax.nn.pos_embed import resize_pos_embed
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import files, irra
from tipr_jax.pretrained import openai_clip as clip
from tipr_jax.run_files import model_fields
from tipr_jax.train_state import define_model

IMAGE = "--image_size=24,16"  # 3 x 2 patches of 8


def load(directory: Path) -> tuple[dict, dict]:
    """(parameters, model fields) of a converted directory."""
    return load_params(directory)[1], model_fields(directory)[1]


def same(a: dict, b: dict) -> None:
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for key in a:
        assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]), key


def run(method: str, source, target, *options: str) -> None:
    convert.main([f"--method={method}", f"--input={source}", f"--output={target}", *options])


def failure(capsys, *args) -> str:
    with pytest.raises(SystemExit) as error:
        run(*args)
    assert error.value.code not in (0, None)
    message = str(error.value.code)
    assert "\n" not in message
    return message


def test_tree_is_the_models():
    """Same names and shapes as an initialised model of the inferred sizes."""
    state = official_irra()
    config = Config(**irra.infer_config(state, (24, 16)))
    assert config.losses == ("sdm", "mlm", "id") and config.num_persons == 7
    assert (config.vision_depth, config.text_depth, config.fusion_depth) == (2, 3, 1)
    init = define_model(get_method("irra"), config, ComputePolicy())[2]
    expected = {k: x.shape for k, x in flatten(jax.eval_shape(init, jax.random.key(0))).items()}
    assert {k: x.shape for k, x in flatten(irra.from_torch(state)).items()} == expected


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip_is_bit_exact(tmp_path, capsys, suffix):
    """file -> directory -> file, through the command line, with and without DDP's prefix."""
    import torch

    state, source = official_irra(), tmp_path / f"best{suffix}"
    stored = {f"module.{key}": value for key, value in state.items()}
    if suffix == ".pth":
        tensors = {key: torch.tensor(value).half() for key, value in stored.items()}
        torch.save({"model": tensors, "epoch": 3, "iteration": 0}, source)
    else:
        save_file(stored, source)
    run("irra", source, tmp_path / "weights", IMAGE)
    run("irra", tmp_path / "weights", tmp_path / f"back{suffix}", "--reverse")
    assert "vision_width" in capsys.readouterr().out
    params, config = load(tmp_path / "weights")
    same(params, irra.from_torch(state))
    assert config["num_persons"] == 7 and tuple(config["image_size"]) == (24, 16)
    same(files.read_state_dict(tmp_path / f"back{suffix}"), state)
    if suffix == ".pth":
        back = torch.load(tmp_path / "back.pth", weights_only=True)
        assert set(back) == {"model"} and set(back["model"]) == set(state)


def test_prefix_is_stripped_in_front_only():
    state = {f"module.{k}": x for k, x in official_irra().items()}
    odd = state.pop("module.classifier.bias")
    state["module.classifier.module.bias"] = odd
    with pytest.raises(ValueError, match="unknown tensors: classifier.module.bias"):
        irra.from_torch(state)


def test_model_without_heads():
    """A model trained with SDM alone has no classifier and no fusion encoder."""
    towers = {k: x for k, x in official_irra().items() if k.startswith("base_model.")}
    assert irra.infer_config(towers, (24, 16))["losses"] == ("sdm",)
    params = irra.from_torch(towers)
    assert set(params) == {"image_encoder", "text_encoder"}
    same(irra.to_torch(params), towers)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("ln_post.bias"), "1 missing tensors: ln_post.bias"),
        (
            lambda s: s.pop("base_model.transformer.resblocks.1.ln_1.bias"),
            "missing tensors: base_model.transformer.resblocks.1.ln_1.bias",
        ),
        (lambda s: s.update(extra=np.zeros(3)), "1 unknown tensors: extra"),
        (
            lambda s: s.update({"classifier.weight": np.zeros((7, 65))}),
            r"1 tensors of the wrong shape: classifier.weight is \[7, 65\], expected \[7, 64\]",
        ),
        (
            lambda s: s.update({"mlm_head.dense.bias": np.zeros((64, 1))}),
            r"mlm_head.dense.bias is \[64, 1\], expected \[64\]",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if ".c_fc." in k],
            r"12 missing tensors: .*c_fc.* and 8 more",
        ),
    ],
)
def test_wrong_tensors_are_listed(change, message):
    state = official_irra()
    change(state)
    with pytest.raises(ValueError, match=message):
        irra.from_torch(state)


def test_reverse_refuses_what_the_released_model_lacks():
    params = irra.from_torch(official_irra()) | {"logit_scale": np.zeros(())}
    with pytest.raises(ValueError, match="parameters without a counterpart: logit_scale"):
        irra.to_torch(params)


def test_positions_must_fit_image_size_and_stride():
    with pytest.raises(
        ValueError, match=r"has 7 rows, .* 1 \+ 48 x 16 = 769; pass the --image_size"
    ):
        irra.infer_config(official_irra())


def scripted_clip(state: dict[str, np.ndarray], path) -> None:
    """A TorchScript archive with these tensors, as OpenAI distributes CLIP."""
    import torch

    root = torch.nn.Module()
    for key, value in state.items():
        *parents, name = key.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, torch.nn.Module())
            node = getattr(node, parent)
        node.register_buffer(name, torch.tensor(value).half())
    for name in clip.IGNORED:
        root.register_buffer(name, torch.tensor(1))
    torch.jit.save(torch.jit.script(root), path)


@pytest.mark.parametrize("layout", ["torchscript", "plain", "hugging_face", "bfloat16"])
def test_clip_layouts(tmp_path, layout):
    """Every distribution of one CLIP gives the same parameters; sizes are read off the file."""
    import torch

    state = openai_clip()
    if layout == "torchscript":
        scripted_clip(state, source := tmp_path / "clip.pt")
    elif layout == "plain":
        torch.save({k: torch.tensor(x) for k, x in state.items()}, source := tmp_path / "clip.pt")
    elif layout == "hugging_face":
        save_file(hugging_face(state), source := tmp_path / "model.safetensors")
    else:
        state = {k: x.astype(ml_dtypes.bfloat16) for k, x in state.items()}
        save_file(state, source := tmp_path / "clip.safetensors")
        state = {k: x.astype(np.float32) for k, x in state.items()}
    run("openai_clip", source, tmp_path / "out", IMAGE)
    params, config = load(tmp_path / "out")
    expected = clip.from_torch(state)
    table = expected["image_encoder"]["pos_embed"]
    expected["image_encoder"]["pos_embed"] = np.asarray(resize_pos_embed(table, (3, 2)))
    same(params, expected)
    sizes = {"patch": 8, "vision_width": 128, "vision_depth": 2, "text_width": 64, "text_depth": 3}
    sizes |= {"text_length": 16, "vocab_size": 128, "embed_dim": 64, "stride": 8}
    assert {key: config[key] for key in sizes} == sizes


def test_overlapping_patches(tmp_path):
    """32 x 16 pixels, patch 8: stride 6 gives 5 x 2 patches where stride 8 gives 4 x 2."""
    save_file(openai_clip(), tmp_path / "clip.safetensors")
    options = ("--image_size=32,16", "--stride=6")
    run("openai_clip", tmp_path / "clip.safetensors", tmp_path / "out", *options)
    params, config = load(tmp_path / "out")
    assert params["image_encoder"]["pos_embed"].shape == (1 + 5 * 2, 128) and config["stride"] == 6


def test_resnet_backbone_is_refused():
    with pytest.raises(ValueError, match="ResNet image encoder"):
        clip.from_torch({"visual.layer1.0.conv1.weight": np.zeros(1)})


def test_wrong_files(tmp_path, capsys):
    """One line each, and no output directory."""
    out = tmp_path / "out"
    assert "no such file" in failure(capsys, "irra", tmp_path / "none.pth", out)
    (tmp_path / "weights.bin2").write_bytes(b"x")
    assert "not a readable tensor" in failure(capsys, "irra", tmp_path / "weights.bin2", out)
    for name in ("junk.pth", "junk.safetensors"):
        (tmp_path / name).write_bytes(b"not a tensor file at all")
        assert "not a readable" in failure(capsys, "irra", tmp_path / name, out)
    save_file(openai_clip(), tmp_path / "clip.safetensors")
    message = failure(capsys, "irra", tmp_path / "clip.safetensors", out)
    assert "unknown tensors" in message and "and" in message
    assert "--method=irra or --method=ivt" in failure(
        capsys, "openai_clip", tmp_path / "clip.safetensors", out, "--reverse"
    )
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"weights.bin2", "junk.pth", "junk.safetensors", "clip.safetensors"}


def test_existing_output_is_not_overwritten(tmp_path, capsys):
    save_file(official_irra(), tmp_path / "irra.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    message = failure(capsys, "irra", tmp_path / "irra.safetensors", tmp_path / "out", IMAGE)
    assert "not empty" in message
    with pytest.raises(ValueError, match="exists"):
        files.write_state_dict(tmp_path / "irra.safetensors", {})
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    assert len(load_file(tmp_path / "irra.safetensors")) == len(official_irra())


def test_pickled_code_does_not_run(tmp_path, capsys):
    """A .pth is data: an object with a hook on unpickling is refused."""

    class Hook:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Hook()))
    assert "not a readable" in failure(capsys, "irra", tmp_path / "evil.pth", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
