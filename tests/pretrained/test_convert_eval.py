"""A released checkpoint, converted, ranks exactly as the original evaluator ranks it.

The reference here is plain torch: a forward pass written from the published architecture, and the
released metric with its full argsort. It shares no code with the package.
"""

import jax
import numpy as np
import pytest
from clip_models import official_irra
from flax import nnx

from tipr_jax import convert
from tipr_jax.checkpoints import load_params, model_fields
from tipr_jax.models import MODELS
from tipr_jax.models.irra import Config
from tipr_jax.precision import DtypePolicy
from tipr_jax.train_state import define_model

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def torch_block(x, state: dict, prefix: str, mask):
    """x [L,B,D] through one residual block."""
    import torch
    from torch.nn import functional as F

    s = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    width = x.shape[-1]
    norm = lambda x, n: F.layer_norm(x, (width,), s[f"{n}.weight"], s[f"{n}.bias"])  # noqa: E731
    y = norm(x, "ln_1")
    attention = F.multi_head_attention_forward(
        y, y, y, width, width // 64, s["attn.in_proj_weight"], s["attn.in_proj_bias"],
        None, None, False, 0.0, s["attn.out_proj.weight"], s["attn.out_proj.bias"],
        attn_mask=mask, need_weights=False,
    )[0]  # fmt: skip
    x = x + attention
    h = F.linear(norm(x, "ln_2"), s["mlp.c_fc.weight"], s["mlp.c_fc.bias"])
    return x + F.linear(h * torch.sigmoid(1.702 * h), s["mlp.c_proj.weight"], s["mlp.c_proj.bias"])


def torch_features(state: dict, image: np.ndarray, text: np.ndarray) -> tuple:
    """Pooled (image, text) features of the released model: uint8 NHWC images, token ids."""
    import torch
    from torch.nn import functional as F

    s = {k.removeprefix("base_model."): torch.tensor(v) for k, v in state.items()}
    norm = lambda x, n: F.layer_norm(x, x.shape[-1:], s[f"{n}.weight"], s[f"{n}.bias"])  # noqa: E731
    pixels = (torch.tensor(image).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    x = F.conv2d(pixels.permute(0, 3, 1, 2), s["visual.conv1.weight"], stride=8)
    x = x.flatten(2).permute(0, 2, 1)
    cls = s["visual.class_embedding"].expand(len(x), 1, -1)
    x = norm(torch.cat([cls, x], 1) + s["visual.positional_embedding"], "visual.ln_pre")
    x = x.permute(1, 0, 2)
    for i in range(2):
        x = torch_block(x, s, f"visual.transformer.resblocks.{i}.", None)
    image_features = norm(x[0], "visual.ln_post") @ s["visual.proj"]

    ids = torch.tensor(text).long()
    y = (s["token_embedding.weight"][ids] + s["positional_embedding"]).permute(1, 0, 2)
    causal = torch.full((len(y), len(y)), float("-inf")).triu(1)
    for i in range(3):
        y = torch_block(y, s, f"transformer.resblocks.{i}.", causal)
    y = norm(y.permute(1, 0, 2), "ln_final")[torch.arange(len(ids)), ids.argmax(1)]
    return image_features, y @ s["text_projection"]


def released_metrics(text, image, text_person, image_person) -> dict[str, float]:
    """R@k, mAP and mINP in percent from a full argsort."""
    from torch.nn import functional as F

    similarity = (F.normalize(text) @ F.normalize(image).T).numpy()
    order = np.argsort(-similarity, axis=1, kind="stable")
    match = image_person[order] == text_person[:, None]
    hits = match.cumsum(1)
    precision = hits / np.arange(1, match.shape[1] + 1)
    last = match.shape[1] - match[:, ::-1].argmax(1)
    metrics = {f"R{k}": match[:, :k].any(1).mean() for k in (1, 5, 10)}
    metrics["mAP"] = ((precision * match).sum(1) / match.sum(1)).mean()
    metrics["mINP"] = (match.sum(1) / last).mean()
    return {key: 100 * float(value) for key, value in metrics.items()}


@pytest.fixture(scope="module")
def data():
    """24 images of 8 persons, two captions each, more alike within a person than between."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(8), 3)
    base = rng.integers(0, 256, (8, 24, 16, 3))
    image = np.clip(base[person] + rng.integers(-60, 60, (24, 24, 16, 3)), 0, 255).astype(np.uint8)
    text_person = np.repeat(person, 2)
    words = rng.integers(1, 125, (8, 14))[text_person]
    words = np.where(rng.random(words.shape) < 0.3, rng.integers(1, 125, words.shape), words)
    text = np.zeros((48, 16), np.int32)
    text[:, 0], text[:, 1:15], text[:, 12] = 126, words, 127
    text[:, 13:] = 0
    return image, text, text_person, person


def test_converted_checkpoint_ranks_as_the_original(tmp_path, data):
    import torch

    from tipr_jax.metrics.retrieval import retrieval_metrics

    image, text, text_person, image_person = data
    state = official_irra()
    tensors = {key: torch.tensor(value) for key, value in state.items()}
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "best.pth")
    want_image, want_text = torch_features(state, image, text)
    want = released_metrics(want_text, want_image, text_person, image_person)

    arguments = [f"--input={tmp_path / 'best.pth'}", f"--output={tmp_path / 'weights'}"]
    convert.main(["--method=irra", "--image_size=24,16", *arguments])
    _, params = load_params(tmp_path / "weights")
    config = Config(**model_fields(tmp_path / "weights")[1])
    graphdef = define_model(MODELS["irra"], config, DtypePolicy())[0]
    model = nnx.merge(graphdef, params)
    image_embed = jax.jit(lambda m, x: m.encode_image(x))(model, image)
    text_embed = jax.jit(lambda m, x: m.encode_text(x))(model, text)
    np.testing.assert_allclose(image_embed, want_image, rtol=0, atol=2e-5)
    np.testing.assert_allclose(text_embed, want_text, rtol=0, atol=2e-5)
    ours = retrieval_metrics(
        np.asarray(text_embed), np.asarray(image_embed), text_person, image_person
    )
    assert 10 < want["mAP"] < 90  # neither trivial nor perfect
    for key, value in want.items():
        assert ours[key] == pytest.approx(value, abs=1e-4), key
