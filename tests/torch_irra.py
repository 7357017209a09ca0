"""The released IRRA in plain torch: a forward pass written from the published architecture, and the
released metric with its full argsort. It shares no code with the package.
"""

import numpy as np

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


def released_metrics(text, image, text_person, image_person, favour=0.0) -> dict[str, float]:
    """R@k, mAP and mINP in percent from a full argsort.

    favour: added to the similarity of right pairs; as large as the rounding, it decides near ties.
    """
    from torch.nn import functional as F

    similarity = (F.normalize(text) @ F.normalize(image).T).numpy()
    similarity += favour * (text_person[:, None] == image_person[None])
    order = np.argsort(-similarity, axis=1, kind="stable")
    match = image_person[order] == text_person[:, None]
    hits = match.cumsum(1)
    precision = hits / np.arange(1, match.shape[1] + 1)
    last = match.shape[1] - match[:, ::-1].argmax(1)
    metrics = {f"R{k}": match[:, :k].any(1).mean() for k in (1, 5, 10)}
    metrics["mAP"] = ((precision * match).sum(1) / match.sum(1)).mean()
    metrics["mINP"] = (match.sum(1) / last).mean()
    return {key: 100 * float(value) for key, value in metrics.items()}
