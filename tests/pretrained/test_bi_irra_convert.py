"""Bi-IRRA, X2-VLM, BEiT v2 and XLM-R files: in and out, tied matrices, other resolutions."""

import logging
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tipr_jax import convert
from tipr_jax.checkpoints import load_params
from tipr_jax.models import get_method
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import beit, bi_irra, xlm_roberta
from tipr_jax.run_files import model_fields
from tipr_jax.train_state import define_model

GOLDEN = Path(__file__).parents[1] / "golden" / "bi_irra"
LAYERS = 3  # of the text in the golden model; the released file numbers the fusion layers on


def released() -> dict[str, np.ndarray]:
    """The tiny released model: 3 blocks, 3 text and 2 fusion layers, 4 heads of 16."""
    return {k: np.asarray(x, np.float32) for k, x in np.load(GOLDEN / "weights.npz").items()}


def x2vlm(state: dict[str, np.ndarray], part: str = "roberta.") -> dict[str, np.ndarray]:
    """The same weights as an X2-VLM file names them, without what Bi-IRRA adds."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(("mim_head", "tl_text_proj", "classifier", "vision_encoder.mask_token")):
            continue
        if key.startswith("text_encoder.mlm_head."):
            key = key.removeprefix("text_encoder.")
        elif layer := re.match(r"text_encoder\.bert\.encoder\.layer\.(\d+)\.(.*)", key):
            number = int(layer[1])
            tower = "text" if number < LAYERS else "cross"
            key = f"{tower}_encoder.{part}encoder.layer.{number % LAYERS}.{layer[2]}"
        else:
            key = key.replace("text_encoder.bert.", f"text_encoder.{part}")
        renamed[key] = value
    return renamed | {"bbox_head.0.weight": np.zeros((128, 64), np.float32)}


def same(a: dict, b: dict) -> None:
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_tree_is_the_models():
    state = released()
    fields = bi_irra.infer_config(state)
    assert (fields["text_depth"], fields["fusion_depth"], fields["vision_heads"]) == (3, 2, 4)
    assert fields["losses"] == ("itc", "itm", "mlm", "mim", "id")
    init = define_model(get_method("bi_irra"), Config(**fields), ComputePolicy())[2]
    expected = {k: x.shape for k, x in flatten(jax.eval_shape(init, jax.random.key(0))).items()}
    assert {k: x.shape for k, x in flatten(bi_irra.from_torch(state)).items()} == expected


@pytest.mark.parametrize("part", ["roberta.", "bert.", ""])
def test_x2vlm_file_gives_the_same_weights(part):
    """What the file lacks is fresh, but the target projection, a copy of the source's."""
    params = bi_irra.from_torch(x2vlm(released(), part))
    whole = bi_irra.from_torch(released())
    assert set(whole) - set(params) == {"mim_head", "classifier"}
    np.testing.assert_array_equal(params["target_proj"]["kernel"][0], params["text_proj"]["kernel"])
    expected = {k: v for k, v in whole.items() if k in params} | {
        "target_proj": params["target_proj"],
        "image_encoder": {k: v for k, v in whole["image_encoder"].items() if k != "mask_embed"},
    }
    same(params, expected)


@pytest.mark.parametrize("source, differing", [("decoder", 1), ("embedding", 0), ("both", 2)])
def test_decoder_that_is_not_the_word_embedding(source, differing, caplog):
    state = x2vlm(released())
    word = state["text_encoder.roberta.embeddings.word_embeddings.weight"]
    decoder = state["mlm_head.predictions.decoder.weight"] = word + 1
    with caplog.at_level(logging.WARNING):
        params = bi_irra.from_torch(state, source)
    assert len(caplog.records) == 1 and "--tied_source" in caplog.text
    ours = params["text_encoder"]["embed"]["word"]
    np.testing.assert_array_equal(ours, decoder if differing == 1 else word)
    assert ("word" in params["mlm_head"]) == (differing == 2)
    assert bi_irra.infer_config(state, tied_source=source)["tie_decoder"] == (differing < 2)
    if differing == 2:
        np.testing.assert_array_equal(params["mlm_head"]["word"], decoder)


def test_tied_file_gives_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        bi_irra.from_torch(x2vlm(released()))
    assert not caplog.records


def test_tables_of_another_resolution_are_refused():
    with pytest.raises(ValueError, match=r"52 rows, made for 4 x 4 .*--image_size=64,64"):
        bi_irra.infer_config(released(), (64, 32))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda s: s.pop("vision_proj.bias"), "missing tensors: vision_proj.bias"),
        (lambda s: s.update(extra=np.zeros(1)), "unknown tensors: extra"),
        (
            lambda s: s.pop("text_encoder.bert.encoder.layer.4.crossattention.self.key.bias"),
            "cross_encoder.encoder.layer.1.crossattention.self",
        ),
        (lambda s: s.pop("mim_head.3.bias"), "mim_head.3.bias"),
        (lambda s: s.update({"temp": np.zeros(3)}), "temp is"),
    ],
)
def test_damaged_files_are_named(damage, message):
    state = released()
    damage(state)
    with pytest.raises(ValueError, match=message):
        bi_irra.from_torch(state)


def test_several_target_projections_cannot_be_released():
    params = bi_irra.from_torch(released())
    params["target_proj"] = {k: np.repeat(x, 3, axis=0) for k, x in params["target_proj"].items()}
    with pytest.raises(ValueError, match="one target projection, this model has 3"):
        bi_irra.to_torch(params)


def beit_file(state: dict[str, np.ndarray], shared: bool) -> dict[str, np.ndarray]:
    """The image tower under BEiT's names; a pre-training file shares one table of positions."""
    prefix = "vision_encoder."
    file = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
    for part in ("weight", "bias"):
        file[f"norm.{part}"] = file.pop(f"fc_norm.{part}")
    if shared:
        table = file["blocks.0.attn.relative_position_bias_table"]
        file = {k: x for k, x in file.items() if "relative_position" not in k}
        file["rel_pos_bias.relative_position_bias_table"] = table
    return file | {"head.weight": np.zeros((5, 64), np.float32)}


def xlm_r_file(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The text tower and the word head under XLM-R's names."""
    file = {"lm_head.decoder.weight": np.zeros((300, 64), np.float32)}
    for key, value in x2vlm(state, "").items():
        if key.startswith("text_encoder."):
            file[f"roberta.{key.removeprefix('text_encoder.')}"] = value
        elif key.startswith("mlm_head.predictions.") and "decoder" not in key:
            name = key.removeprefix("mlm_head.predictions.").replace("transform.", "")
            file[f"lm_head.{name.replace('LayerNorm', 'layer_norm')}"] = value
    return file


@pytest.mark.parametrize("shared", [False, True])
def test_beit(shared):
    whole = bi_irra.from_torch(released())["image_encoder"]
    params = beit.from_torch(beit_file(released(), shared))["image_encoder"]
    if shared:
        table = whole["blocks"]["attn"]["position_bias"]
        table[:] = table[0]
    same(params, whole)
    assert beit.infer_config(beit_file(released(), shared))["image_size"] == (64, 64)


def test_xlm_roberta():
    whole = bi_irra.from_torch(released())
    params = xlm_roberta.from_torch(xlm_r_file(released()), head_dim=16)
    same(params, {k: whole[k] for k in ("text_encoder", "mlm_head")})
    assert xlm_roberta.infer_config(xlm_r_file(released()), 16)["text_heads"] == 4


def test_command_line_there_and_back(tmp_path, capsys):
    """Every tensor of a released file survives; constants are rebuilt by whoever loads it."""
    state = {k: np.array(x, order="C") for k, x in released().items()}
    save_file(state, tmp_path / "released.safetensors")
    run("bi_irra", tmp_path / "released.safetensors", tmp_path / "ours")
    assert "text_depth" in capsys.readouterr().out
    assert model_fields(tmp_path / "ours")[0] == "bi_irra"
    run("bi_irra", tmp_path / "ours", tmp_path / "back.safetensors", "--reverse")
    back = load_file(tmp_path / "back.safetensors")
    names = {k for k in state if not k.endswith(("position_ids", "relative_position_index"))}
    assert set(back) == names
    for key in names:
        np.testing.assert_array_equal(back[key], state[key], err_msg=key)


def test_command_line_torch_file_and_init(tmp_path):
    import torch

    weights = {k: torch.tensor(x) for k, x in x2vlm(released()).items()}
    torch.save({"model": weights}, tmp_path / "cclm.th")
    run("bi_irra", tmp_path / "cclm.th", tmp_path / "start", "--tied_source=embedding")
    assert "mim_head" not in load_params(tmp_path / "start")[1]

    # Towers alone; heads of 64 as in every XLM-R.
    wide = {k: np.array(x, order="C") for k, x in beit_file(released(), False).items()}
    text = {k: np.array(x, order="C") for k, x in xlm_r_file(released()).items()}
    save_file(wide, tmp_path / "beit.safetensors")
    save_file(text, tmp_path / "xlmr.safetensors")
    source = tmp_path / "beit.safetensors"
    xlmr = f"--text={tmp_path / 'xlmr.safetensors'}"
    run("bi_irra_init", source, tmp_path / "init", xlmr)
    assert set(load_params(tmp_path / "init")[1]) == {"image_encoder", "text_encoder", "mlm_head"}


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("bi_irra", ("--image_size=64,32",), "Tables are not resampled"),
        ("bi_irra_init", (), "need a --text file"),
        ("beit", ("--tied_source=both",), "--method=bi_irra"),
    ],
)
def test_command_line_errors(tmp_path, method, options, message):
    state = {k: np.array(x, order="C") for k, x in released().items()}
    save_file(state, tmp_path / "file.safetensors")
    with pytest.raises(SystemExit) as error:
        run(method, tmp_path / "file.safetensors", tmp_path / "out", *options)
    assert message in str(error.value.code) and "\n" not in str(error.value.code)
    assert not (tmp_path / "out").exists()


def run(method: str, source: Path, target: Path, *options: str) -> None:
    convert.main([f"--method={method}", f"--input={source}", f"--output={target}", *options])
