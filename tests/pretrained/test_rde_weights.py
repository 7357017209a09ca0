"""RDE's weights: released names both ways, CLIP and IRRA as a start, what nothing reads."""

import dataclasses

import jax
import numpy as np
import pytest
from clip_models import official_irra, openai_clip
from safetensors.numpy import load_file, save_file

from configs import rde as configs
from tipr_jax import convert, experiment
from tipr_jax.checkpoints import load_params
from tipr_jax.models import get_method
from tipr_jax.models.rde import Config
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import rde
from tipr_jax.run_files import model_fields
from tipr_jax.train_state import define_model

IMAGE = "--image_size=32,16"  # 4 x 2 patches of 8


@pytest.fixture(scope="module")
def weights() -> dict:
    """Numpy variables of a small model, with running statistics that were trained."""
    init = define_model(get_method("rde"), Config.tiny(), ComputePolicy())[2]
    shapes, rng = jax.eval_shape(init, jax.random.key(0)), np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def same(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def run(method: str, source, target, *options: str) -> None:
    convert.main([f"--method={method}", f"--input={source}", f"--output={target}", *options])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_file_there_and_back(weights, tmp_path, prefix):
    state = rde.to_torch(weights)
    save_file({prefix + k: np.array(v) for k, v in state.items()}, tmp_path / "best.safetensors")
    run("rde", tmp_path / "best.safetensors", tmp_path / "out", IMAGE)
    same(flatten(load_params(tmp_path / "out")[1]), flatten(weights))
    method, fields = model_fields(tmp_path / "out")
    tiny = Config.tiny()
    assert method == "rde"
    assert {k: getattr(tiny, k) for k in fields} == {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
    }
    run("rde", tmp_path / "out", tmp_path / "back.safetensors", "--reverse")
    back = load_file(tmp_path / "back.safetensors")
    same(back, state)
    assert {str(v.dtype) for v in back.values()} == {"float32", "int64"}


def test_torch_file_with_half_precision(weights, tmp_path):
    """As the release saves it: the module's state under "model", most of it in float16."""
    torch = pytest.importorskip("torch")
    state = rde.to_torch(jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), weights))
    tensors = {k: torch.tensor(np.asarray(v)) for k, v in state.items()}
    half = {k: v if "bns" in k else v.half() for k, v in tensors.items()}
    torch.save({"model": half, "epoch": 3}, tmp_path / "best.pth")
    run("rde", tmp_path / "best.pth", tmp_path / "out", IMAGE)
    same(rde.to_torch(load_params(tmp_path / "out")[1]), state)


def test_what_nothing_reads_may_be_absent_and_is_written(weights):
    state = rde.to_torch(weights)
    assert rde.UNUSED < state.keys() and len(rde.UNUSED) == 14
    lean = {k: v for k, v in state.items() if k not in rde.UNUSED}
    same(flatten(rde.from_torch(lean)), flatten(weights))
    other = state | {"visul_emb_layer.linear.weight": np.full((64, 64), 7, np.float32)}
    same(flatten(rde.from_torch(other)), flatten(weights))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"texual_emb_layer.fc.weight": np.zeros((64, 64), np.float32)}, "unknown tensors: texual"),
        ({"visul_emb_layer.fc.weight": None}, "missing tensors: visul_emb_layer.fc.weight"),
        ({"visul_emb_layer.mlp.bns.0.running_mean": None}, "missing tensors: .*running_mean"),
        ({"visul_emb_layer.fc.bias": np.zeros(63, np.float32)}, r"fc.bias is \[63\]"),
        ({"classifier.weight": np.zeros((7, 64), np.float32)}, "unknown tensors: classifier"),
    ],
)
def test_damaged_files_are_named(weights, change, message):
    state = {k: v for k, v in (rde.to_torch(weights) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        rde.from_torch(state)


def test_other_grid_is_refused(weights):
    with pytest.raises(ValueError, match="1 \\+ 4 x 4 = 17"):
        rde.infer_config(rde.to_torch(weights), (32, 32))


def debug_config(source):
    config = configs.get_config("debug")
    config.data.image_size, config.data.text_length = (32, 16), 16
    config.init_from = str(source)
    model = dict(patch=8, stride=8, vision_width=128, text_width=64, text_depth=3, vision_depth=2)
    config.model.update(model | dict(embed_dim=64, vocab_size=128))
    return config


@pytest.mark.parametrize("method", ["irra", "openai_clip"])
def test_towers_of_clip_and_irra_are_a_start(tmp_path, method):
    """The towers pass; the token selection starts fresh, with statistics 0 and 1."""
    state = official_irra(rows=4) if method == "irra" else openai_clip(grid=2)
    save_file({k: np.array(v) for k, v in state.items()}, tmp_path / "start.safetensors")
    run(method, tmp_path / "start.safetensors", tmp_path / "start", IMAGE)
    given = load_params(tmp_path / "start")[1]
    config = debug_config(tmp_path / "start")
    text_depth, vision_depth = (
        len(given[f"{kind}_encoder"]["blocks"]["ln_1"]["bias"]) for kind in ("text", "image")
    )
    width = {k: given[f"{k}_encoder"]["pos_embed"].shape[1] for k in ("image", "text")}
    config.model.update(
        dict(text_depth=text_depth, vision_depth=vision_depth, vision_width=width["image"],
             text_width=width["text"])
    )  # fmt: skip
    exp = experiment.build(config)
    begun = jax.device_get(experiment.initial_params(exp))
    for tower in ("image_encoder", "text_encoder"):
        same(flatten(begun[tower]), flatten(given[tower]))
    norm = begun["image_selection"]["hidden_norm"]
    assert not norm["mean"].any() and (norm["var"] == 1).all() and (norm["scale"] == 1).all()


def test_another_grid_and_length_are_resized(weights, tmp_path):
    save_file(
        {k: np.array(v) for k, v in rde.to_torch(weights).items()}, tmp_path / "x.safetensors"
    )
    run("rde", tmp_path / "x.safetensors", tmp_path / "x", IMAGE)
    config = configs.get_config("debug")
    config.data.image_size, config.data.text_length = (48, 16), 12
    config.init_from, config.init_positions = str(tmp_path / "x"), "resize"
    changed = dataclasses.asdict(Config.tiny())
    config.model.update({k: v for k, v in changed.items() if k in config.model})
    begun = jax.device_get(experiment.initial_params(experiment.build(config)))
    assert begun["image_encoder"]["pos_embed"].shape == (1 + 6 * 2, 64)
    np.testing.assert_array_equal(
        begun["text_encoder"]["pos_embed"], weights["text_encoder"]["pos_embed"][:12]
    )
    same(flatten(begun["text_selection"]), flatten(weights["text_selection"]))
