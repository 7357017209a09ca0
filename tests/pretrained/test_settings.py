"""Heads, activation and feed-forward widths: what stands beside the weights is what is computed."""

import json

import numpy as np
import pytest
import torch
from clip_models import fill, hugging_face, openai_clip
from safetensors.numpy import save_file

from tipr_jax import convert
from tipr_jax.inference.model import load
from tipr_jax.pretrained import files, timm_vit
from tipr_jax.pretrained import openai_clip as clip
from tipr_jax.pretrained.settings import clip_towers, transformer

SIZE = (24, 24)  # 3 x 3 patches of 8, as the file has
ACTIVATIONS = {
    "gelu": torch.nn.functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def with_hidden(state: dict, hidden: int) -> dict:
    """The image tower's feed-forward layers with another hidden width."""
    rng, width = np.random.default_rng(1), state["visual.proj"].shape[0]
    shapes = {
        "c_fc.weight": (hidden, width),
        "c_fc.bias": (hidden,),
        "c_proj.weight": (width, hidden),
    }
    for key in [k for k in state if k.startswith("visual.transformer")]:
        for name, shape in shapes.items():
            if key.endswith(f"mlp.{name}"):
                state[key] = fill(shape, rng)
    return state


def features(state: dict, pixels: np.ndarray, heads: int, activation: str) -> np.ndarray:
    """Unit image features by PyTorch's own layers; state has OpenAI's names."""
    w = {k.removeprefix("visual."): torch.tensor(x) for k, x in state.items() if "visual." in k}

    def norm(x, name):
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias)

    mean, std = (torch.tensor(x) for x in (clip_mean, clip_std))
    image = ((torch.tensor(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    x = torch.nn.functional.conv2d(image, w["conv1.weight"], stride=8).flatten(2).mT
    first = w["class_embedding"].expand(len(x), 1, -1)
    x = norm(torch.cat([first, x], 1) + w["positional_embedding"], "ln_pre")
    for i in range(2):
        block = f"transformer.resblocks.{i}"
        y = norm(x, f"{block}.ln_1")
        attention = torch.nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        attention.load_state_dict(
            {k.removeprefix(f"{block}.attn."): v for k, v in w.items() if f"{block}.attn." in k}
        )
        x = x + attention(y, y, y, need_weights=False)[0]
        y = norm(x, f"{block}.ln_2")
        y = ACTIVATIONS[activation](
            y @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"]
        )
        x = x + y @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
    out = (norm(x[:, 0], "ln_post") @ w["proj"]).detach().numpy()
    return out / np.linalg.norm(out, axis=1, keepdims=True)


clip_mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
clip_std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def hf_config(width: int, heads: int, activation: str) -> dict:
    vision = {"hidden_size": width, "num_attention_heads": heads, "hidden_act": activation}
    text = {"hidden_size": 64, "num_attention_heads": 1, "hidden_act": activation}
    return {"model_type": "clip", "vision_config": vision, "text_config": text}


def open_clip_config(width: int, heads: int, activation: str) -> dict:
    vision = {"width": width, "head_width": width // heads}
    cfg = {"vision_cfg": vision, "text_cfg": {"width": 64, "heads": 1}}
    return {"model_cfg": cfg | ({"quick_gelu": True} if activation == "quick_gelu" else {})}


CASES = {  # width, heads, hidden, activation
    "OpenAI's": (128, 2, 512, "quick_gelu"),
    "LAION's B": (128, 2, 512, "gelu"),
    "H": (160, 2, 640, "gelu"),  # heads of 80
    "g": (176, 2, 768, "gelu"),  # heads of 88, another hidden width
    "bigG": (208, 2, 1024, "quick_gelu"),  # heads of 104
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ["hugging_face", "open_clip"])
def test_what_stands_beside_the_weights_is_computed(tmp_path, case, layout):
    width, heads, hidden, activation = CASES[case]
    state = with_hidden(openai_clip(vision=width, vocab=49408, text_length=77), hidden)
    folder = tmp_path / "model"
    folder.mkdir()
    if layout == "hugging_face":
        save_file(hugging_face(state), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(hf_config(width, heads, activation)))
    else:
        save_file(state, folder / "open_clip_model.safetensors")
        config = open_clip_config(width, heads, activation)
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    convert.main(
        [
            "--method=openai_clip",
            f"--input={folder}",
            f"--output={tmp_path / 'out'}",
            "--image_size=24,24",
        ]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
    found = load(tmp_path / "out").embed_images(list(pixels))
    np.testing.assert_allclose(found, features(state, pixels, heads, activation), atol=1e-5)


def write(tmp_path, width: int):
    save_file(openai_clip(vision=width), tmp_path / "clip.safetensors")
    return f"--input={tmp_path / 'clip.safetensors'}"


def test_where_it_must_guess_it_refuses(tmp_path):
    source, out = write(tmp_path, 1280), f"--output={tmp_path / 'out'}"
    options = ["--method=openai_clip", "--image_size=24,24", source, out]
    with pytest.raises(SystemExit, match="nothing tells how many heads.*--head_dim"):
        convert.main(options)
    convert.main([*options, "--head_dim=80", "--activation=gelu"])
    config = load(tmp_path / "out").config
    assert (config.vision_head_dim, config.text_head_dim, config.activation) == (80, 64, "gelu")


def test_an_assumption_is_said(tmp_path, caplog):
    convert.main(
        [
            "--method=openai_clip",
            "--image_size=24,24",
            write(tmp_path, 128),
            f"--output={tmp_path / 'out'}",
        ]
    )
    assert "taken for OpenAI's CLIP" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (hf_config(128, 2, "relu"), "hidden_act relu"),
        (hf_config(128, 3, "gelu"), "hidden_size 128 is not divisible by 3 heads"),
        (
            {"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "quick_gelu"}},
            "gelu and quick_gelu",
        ),
    ],
)
def test_settings_that_cannot_be_computed(settings, message):
    with pytest.raises(ValueError, match=message):
        clip.convert(openai_clip(), SIZE, None, settings=[settings])


@pytest.mark.parametrize("content", ["{", "[1]", '{"architectures": ["x"]}'])
def test_another_file_of_that_name(tmp_path, content):
    """Not JSON is an error; JSON of something else tells nothing."""
    (tmp_path / "config.json").write_text(content)
    arguments = [
        "--method=openai_clip",
        write(tmp_path, 128),
        f"--output={tmp_path / 'out'}",
        "--image_size=24,24",
    ]
    if content == "{":
        with pytest.raises(SystemExit, match="config.json: not JSON"):
            convert.main(arguments)
    else:
        convert.main(arguments)


def test_what_the_file_leaves_out_has_the_value_of_the_smallest_clip():
    vision, text = clip_towers({"vision_config": {}, "text_config": None})
    assert (vision.head_dim, text.head_dim, text.activation) == (64, 64, "quick_gelu")
    assert transformer({}) == (None, None)


PREFIXES = ["module.", "clip.", "model.", "module.model.", "_orig_mod.module.", "model.clip."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_of_wrappers_are_taken_off(tmp_path, prefix):
    state = openai_clip()
    save_file({f"{prefix}{key}": x for key, x in state.items()}, tmp_path / "x.safetensors")
    assert set(files.read_state_dict(tmp_path / "x.safetensors")) == set(state)


def vit(width: int = 64, hidden: int = 128) -> dict:
    rng = np.random.default_rng(0)
    shapes = {row.key.replace("{i}", "0"): row.shape for row in timm_vit.table()}
    letters = {"W": width, "X": hidden, "N": 5, "p": 8, "": 1}
    sizes = lambda text: tuple(  # noqa: E731
        int(part.rstrip("WXNp") or 1) * letters[part.lstrip("0123456789")] for part in text.split()
    )
    return {key: fill(sizes(shape), rng) for key, shape in shapes.items()}


def test_timm_feed_forward_width_and_layers_before_the_classifier():
    state = vit(hidden=96)
    for name in ("pre_logits.fc.weight", "pre_logits.fc.bias", "head.weight", "head.bias"):
        state[name] = np.zeros(3, np.float32)
    assert timm_vit.infer_config(state)["image_ffn"] == 96
    assert timm_vit.infer_config(vit(hidden=256))["image_ffn"] == 0  # the usual four times


def test_a_distilled_deit_is_refused_by_name():
    state = vit() | {"dist_token": np.zeros((1, 1, 64)), "head_dist.weight": np.zeros((3, 64))}
    with pytest.raises(ValueError, match="distilled DeiT.*deit_base_patch16_224"):
        timm_vit.from_torch(state)
