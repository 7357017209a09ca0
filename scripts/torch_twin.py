"""IRRA in plain PyTorch modules, for side-by-side timing only (scripts/benchmark.py --vs-torch).

Same shapes, losses and optimiser as `tipr_jax.models.irra`; written the way the released code
works: two text passes, the masked-word head on every position, Adam with one learning rate.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class TorchIrra(nn.Module):
    """Returns the summed sdm + id + mlm loss of a batch; `encode_image` / `encode_text` too."""

    def __init__(self, config: Any):
        super().__init__()
        c, self.config = config, config
        rows, cols = ((s - c.patch) // c.stride + 1 for s in c.image_size)
        self.conv = nn.Conv2d(3, c.vision_width, c.patch, c.stride, bias=False)
        self.cls = nn.Parameter(torch.zeros(c.vision_width))
        self.image_pos = nn.Parameter(torch.randn(1 + rows * cols, c.vision_width) * 0.02)
        self.ln_pre, self.ln_post = nn.LayerNorm(c.vision_width), nn.LayerNorm(c.vision_width)
        self.image_blocks = nn.ModuleList(Block(c.vision_width) for _ in range(c.vision_depth))
        self.image_proj = nn.Parameter(torch.randn(c.vision_width, c.embed_dim) * 0.02)
        self.tokens = nn.Embedding(c.vocab_size, c.text_width)
        self.text_pos = nn.Parameter(torch.randn(c.text_length, c.text_width) * 0.01)
        self.text_blocks = nn.ModuleList(Block(c.text_width) for _ in range(c.text_depth))
        self.ln_final = nn.LayerNorm(c.text_width)
        self.text_proj = nn.Parameter(torch.randn(c.text_width, c.embed_dim) * 0.02)
        mask = torch.full((c.text_length, c.text_length), float("-inf")).triu(1)
        self.register_buffer("mask", mask)
        d = c.embed_dim
        self.classifier = nn.Linear(d, c.num_persons)
        self.ln_t, self.ln_i, self.ln_f = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.cross = nn.MultiheadAttention(d, d // 64, batch_first=True)
        self.fusion = nn.ModuleList(Block(d) for _ in range(c.fusion_depth))
        self.head = nn.Sequential(
            nn.Linear(d, d), QuickGELU(), nn.LayerNorm(d), nn.Linear(d, c.vocab_size)
        )

    def image_tokens(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), 1, -1).to(x.dtype), x], 1) + self.image_pos
        x = self.ln_pre(x)
        for block in self.image_blocks:
            x = block(x)
        return self.ln_post(x) @ self.image_proj

    def text_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.text_pos
        for block in self.text_blocks:
            x = block(x, self.mask)
        return self.ln_final(x) @ self.text_proj

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.image_tokens(image)[:, 0]

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return self.text_tokens(ids)[torch.arange(len(ids)), ids.argmax(1)]

    def forward(self, b: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens = self.image_tokens(b["image"])
        image, text = tokens[:, 0].float(), self.encode_text(b["text_ids"]).float()
        logits = 50.0 * F.normalize(text, dim=1) @ F.normalize(image, dim=1).T
        same = (b["person_id"][:, None] == b["person_id"][None]).float()
        label = (same / same.sum(1) + 1e-8).log()
        sdm = sum(
            (z.softmax(1) * (z.log_softmax(1) - label)).sum(1).mean() for z in (logits, logits.T)
        )
        identity = sum(
            F.cross_entropy(self.classifier(x.to(tokens.dtype)).float(), b["person_id"]) / 2
            for x in (image, text)
        )
        key = self.ln_i(tokens)
        x = self.cross(self.ln_t(self.text_tokens(b["mlm_ids"])), key, key, need_weights=False)[0]
        for block in self.fusion:
            x = block(x)
        scores = self.head(self.ln_f(x)).float().flatten(0, 1)
        return sdm + identity + F.cross_entropy(scores, b["labels"].flatten(), ignore_index=0)


def torch_batch(batch: dict[str, np.ndarray], config: Any, device: str) -> dict[str, torch.Tensor]:
    """The same batch as tensors: normalised image, masked ids and labels (15 % of the words)."""
    ids = torch.tensor(batch["text_ids"], dtype=torch.long)
    word = (ids > 0) & (ids < config.vocab_size - 3)
    picked = word & (torch.rand(ids.shape) < 0.15)
    image = torch.tensor(batch["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    out = {
        "image": image,
        "text_ids": ids,
        "mlm_ids": torch.where(picked, config.vocab_size - 3, ids),
        "labels": torch.where(picked, ids, 0),
        "person_id": torch.tensor(batch["person_id"], dtype=torch.long),
    }
    return {k: v.to(device) for k, v in out.items()}
