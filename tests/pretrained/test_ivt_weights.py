"""IVT's weights: released names both ways, BERT and ViT as a start, the hand-over."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tipr_jax import convert
from tipr_jax.checkpoints import load_params
from tipr_jax.models import get_method
from tipr_jax.models.ivt import LOSSES, Config, adopt
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import bert, ivt, start, timm_vit
from tipr_jax.run_files import model_fields
from tipr_jax.train_state import define_model

WIDTH, DEPTH, VOCAB, POSITIONS = 128, 2, 64, 24
SIZES = dict(width=WIDTH, depth=DEPTH, heads=2, vocab_size=VOCAB, max_positions=POSITIONS)
IMAGE = "--image_size=24,16"  # 3 x 2 patches of 8


def make_params(seed: int = 0, **changes) -> tuple[Config, dict]:
    """Numpy parameters of a small model with every head."""
    settings = dict(image_size=(24, 16), patch=8, stride=8, text_length=16, fusion_depth=DEPTH)
    settings |= dict(fusion_ffn=4 * WIDTH, losses=LOSSES, levels=("sentence",), mask="none")
    config = Config(**(settings | SIZES | changes))
    init = define_model(get_method("ivt"), config, ComputePolicy())[2]
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return config, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def same(a: dict, b: dict) -> None:
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def run(method: str, source, target, *options: str) -> None:
    convert.main([f"--method={method}", f"--input={source}", f"--output={target}", *options])


def failure(method: str, source, target, *options: str) -> str:
    with pytest.raises(SystemExit) as error:
        run(method, source, target, *options)
    message = str(error.value.code)
    assert error.value.code not in (0, None) and "\n" not in message
    return message


def official_extras() -> dict[str, np.ndarray]:
    """What a released file holds besides: inert tensors, and second names of shared ones."""
    return {
        "classifier_img.weight": np.zeros((5, WIDTH), np.float32),
        "bottleneck_img.running_mean": np.zeros(WIDTH, np.float32),
        "encoder_vl.embeddings.position_ids": np.arange(POSITIONS, dtype=np.float32)[None],
        "encoder_fusion.bert.embeddings.LayerNorm.weight": np.ones(WIDTH, np.float32),
        "encoder_fusion.cls.predictions.decoder.bias": np.zeros(VOCAB, np.float32),
    }


def test_pretraining_checkpoint_there_and_back(tmp_path):
    _, params = make_params()
    state = ivt.to_torch(params)
    assert all(k.startswith(("encoder_vl.", "encoder_fusion.", "itm.", "temp")) for k in state)
    full = {f"module.{k}": np.array(v) for k, v in (state | official_extras()).items()}
    save_file(full, tmp_path / "best.safetensors")
    run("ivt", tmp_path / "best.safetensors", tmp_path / "out", IMAGE)
    same(load_params(tmp_path / "out")[1], params)
    method, fields = model_fields(tmp_path / "out")
    assert method == "ivt" and tuple(fields["losses"]) == ("itc", "itm", "mlm")
    assert {k: fields[k] for k in SIZES} == SIZES and fields["fusion_depth"] == DEPTH
    run("ivt", tmp_path / "out", tmp_path / "back.safetensors", "--reverse")
    same(load_file(tmp_path / "back.safetensors"), state)


def test_finetuned_checkpoint_there_and_back(tmp_path):
    params = {"encoder": make_params()[1]["encoder"]}
    state = ivt.to_torch(params) | {"temp": np.float32(0.5)}
    save_file({k: np.asarray(v) for k, v in state.items()}, tmp_path / "best.safetensors")
    run("ivt", tmp_path / "best.safetensors", tmp_path / "out", IMAGE)
    same(load_params(tmp_path / "out")[1], params)
    run("ivt", tmp_path / "out", tmp_path / "back.safetensors", "--reverse")
    back = load_file(tmp_path / "back.safetensors")
    assert set(state) - set(back) == {"temp"}


def test_decoder_may_come_under_the_name_of_its_word_table():
    _, params = make_params()
    state = ivt.to_torch(params)
    word = state.pop("encoder_fusion.cls.predictions.decoder.weight")
    same(ivt.from_torch(state | {ivt.WORD_TABLE: word}), params)


def test_damaged_files_are_named(tmp_path):
    state = ivt.to_torch(make_params()[1])
    save_file(state, tmp_path / "good.safetensors")
    assert "--stride" in failure("ivt", tmp_path / "good.safetensors", tmp_path / "out")
    del state["encoder_vl.blocks.1.mlp_txt.fc2.bias"]
    save_file(state, tmp_path / "bad.safetensors")
    message = failure("ivt", tmp_path / "bad.safetensors", tmp_path / "out", IMAGE)
    assert "missing" in message and "blocks.1.mlp_txt.fc2.bias" in message
    assert not (tmp_path / "out").exists()


def fake_vit(rng: np.random.Generator, grid: int = 3) -> dict[str, np.ndarray]:
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + grid * grid, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 8, 8),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    for i in range(DEPTH):
        layer = {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in layer.items()}
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def fake_bert(rng: np.random.Generator, *, layers: int = DEPTH) -> dict[str, np.ndarray]:
    """As the published file names things: "bert." in front, gamma and beta."""
    shapes = {
        "bert.embeddings.word_embeddings.weight": (VOCAB, WIDTH),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "bert.embeddings.token_type_embeddings.weight": (2, WIDTH),
        "bert.embeddings.LayerNorm.gamma": (WIDTH,),
        "bert.embeddings.LayerNorm.beta": (WIDTH,),
        "bert.pooler.dense.weight": (WIDTH, WIDTH),
        "cls.predictions.bias": (VOCAB,),
        "cls.predictions.transform.dense.weight": (WIDTH, WIDTH),
        "cls.predictions.transform.dense.bias": (WIDTH,),
        "cls.predictions.transform.LayerNorm.gamma": (WIDTH,),
        "cls.predictions.transform.LayerNorm.beta": (WIDTH,),
        "cls.seq_relationship.weight": (2, WIDTH),
    }
    linear = {
        "intermediate.dense": (4 * WIDTH, WIDTH),
        "output.dense": (WIDTH, 4 * WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
    }
    linear |= {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    for i in range(layers):
        layer = f"bert.encoder.layer.{i}"
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("output", "attention.output"):
            for kind in ("gamma", "beta"):
                shapes[f"{layer}.{name}.LayerNorm.{kind}"] = (WIDTH,)
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def test_start_of_training_from_bert_and_vit(tmp_path):
    rng = np.random.default_rng(0)
    image, text = fake_vit(rng), fake_bert(rng)
    save_file(image, tmp_path / "vit.safetensors")
    save_file(text, tmp_path / "bert.safetensors")
    options = (f"--text={tmp_path / 'bert.safetensors'}", "--image_size=40,16", "--stride=4")
    run("ivt_init", tmp_path / "vit.safetensors", tmp_path / "out", *options)
    params, fields = load_params(tmp_path / "out")[1], model_fields(tmp_path / "out")[1]
    config, fresh = make_params(image_size=(40, 16), stride=4)
    assert {k: fields[k] for k in SIZES} == SIZES and fields["stride"] == 4
    source = start.source_config(fields, get_method("ivt"), config)
    shared = {name: module for name, module in params.items() if name in fresh}
    adopted = adopt(shared, fresh, source, config, False)
    taken = fresh | adopted.params
    absent = set(adopted.notes) | (set(flatten(fresh)) - set(flatten(adopted.params)))
    cross = {k for k in flatten(fresh) if "/cross_attn/" in k or "/ln_2/" in k and "fusion" in k}
    assert absent == cross | {
        "encoder/type_embed",
        "itm_head/kernel",
        "itm_head/bias",
        "temperature",
    }
    official = ivt.to_torch(taken)
    for ours, theirs in {
        "encoder_vl.blocks.1.mlp_vis.fc1.weight": image["blocks.1.mlp.fc1.weight"],
        "encoder_vl.blocks.1.attn.qkv.weight": image["blocks.1.attn.qkv.weight"],
        "encoder_vl.cls_token": image["cls_token"],
        "encoder_vl.embeddings.LayerNorm.weight": text["bert.embeddings.LayerNorm.gamma"],
        "encoder_vl.blocks.0.mlp_txt.fc2.bias": text["bert.encoder.layer.0.output.dense.bias"],
        "encoder_fusion.bert.encoder.layer.1.attention.self.key.weight": text[
            "bert.encoder.layer.1.attention.self.key.weight"
        ],
        "encoder_fusion.cls.predictions.decoder.weight": text[
            "bert.embeddings.word_embeddings.weight"
        ],
    }.items():
        np.testing.assert_array_equal(official[ours], theirs, err_msg=ours)


def test_fusion_takes_the_first_six_layers():
    params = bert.from_torch(fake_bert(np.random.default_rng(0), layers=8), fusion_depth=6)
    assert params["fusion"]["blocks"]["ln_3"]["scale"].shape == (6, WIDTH)
    assert params["encoder"]["mlp_text"]["fc_in"]["bias"].shape == (8, 4 * WIDTH)


def test_wrong_starts_are_named(tmp_path):
    rng = np.random.default_rng(0)
    save_file(fake_vit(rng), tmp_path / "vit.safetensors")
    save_file(fake_bert(rng, layers=3), tmp_path / "bert.safetensors")
    vit, out = tmp_path / "vit.safetensors", tmp_path / "out"
    assert "--text" in failure("ivt_init", vit, out, IMAGE)
    text = f"--text={tmp_path / 'bert.safetensors'}"
    assert "depth of the ViT is 2, of the BERT 3" in failure("ivt_init", vit, out, IMAGE, text)
    assert "--text" in failure("timm_vit", vit, out, IMAGE, text)
    assert "--method=ivt" in failure("bert", vit, out, "--reverse")
    assert "unknown tensors" in failure("bert", vit, out)
    assert not out.exists()


def test_resized_tables_by_hand():
    """A pre-training grid of 3 x 2 into a fine-tuning grid of 5 x 3."""
    source, loaded = make_params(seed=1)
    config, fresh = make_params(seed=2, stride=4)
    params, notes = adopt(loaded, fresh, source, config, False)
    for name in ("pos_embed", "type_embed"):
        assert notes[f"encoder/{name}"] == "resized 3x2 -> 5x3"
        table, resized = loaded["encoder"][name], params["encoder"][name]
        np.testing.assert_array_equal(resized[0], table[0])
        grid = table[1:].reshape(3, 2, WIDTH)
        # Row 2 and column 1 of the new grid lie in the middle of the old one.
        np.testing.assert_allclose(resized[1 + 2 * 3 + 1], grid[1].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(resized[1], grid[0, 0], rtol=1e-5)  # corners stay


def test_timm_head_dimension_is_read():
    state = fake_vit(np.random.default_rng(0))
    assert timm_vit.infer_config(state)["heads"] == 2
    assert timm_vit.infer_config(state, head_dim=32)["heads"] == 4
    assert timm_vit.from_torch(state, 32)["encoder"]["blocks"]["attn"]["qkv"]["bias"].shape == (
        DEPTH,
        3,
        4,
        32,
    )
