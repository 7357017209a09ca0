"""IRRA in plain PyTorch modules, for side-by-side timing only (scripts/benchmark.py --vs-torch).

Same shapes, losses and optimiser as `tipr_jax.models.irra`, in two forms. `-fair` is appended to a
recipe for the best plain way a competent user would write it, with the shortcuts that we take: one
text pass, the masked-word head on the labelled positions alone, PyTorch's fused Adam; and in
encoding the last block for the one token alone that is read. Without it the twin works the way the
released code does: two text passes, the masked-word head on every position, Adam with a loop over
the parameters, every token through the last block.
Like there, images are normalised to float32 on the host (by the data loader's workers, not timed)
and every training step copies its batch to the device (timed); no augmentation is timed.

Recipes: `float32`; `float16` (autocast and a gradient scaler); `bfloat16` (autocast); `half`
(the released code: float16 weights but for the LayerNorms, no scaler).
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

RECIPES = ("float32", "float16", "bfloat16", "half")
FAIR = "-fair"


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class LayerNorm(nn.LayerNorm):
    """In float32 whatever comes in, as CLIP's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))

    def at(
        self, x: torch.Tensor, position: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One token [B,1,D] of the call; hidden: bool [B,L], the keys that it does not read."""
        context, row = self.ln_1(x), torch.arange(len(x))
        query, x = context[row, position][:, None], x[row, position][:, None]
        x = x + self.attn(query, context, context, need_weights=False, key_padding_mask=hidden)[0]
        return x + self.mlp(self.ln_2(x))


class TorchIrra(nn.Module):
    """Returns the summed sdm + id + mlm loss of a batch; `encode_image` / `encode_text` too."""

    def __init__(self, config: Any, *, fair: bool):
        super().__init__()
        c, self.fair = config, fair
        rows, cols = ((s - c.patch) // c.stride + 1 for s in c.image_size)
        self.conv = nn.Conv2d(3, c.vision_width, c.patch, c.stride, bias=False)
        self.cls = nn.Parameter(torch.zeros(c.vision_width))
        self.image_pos = nn.Parameter(torch.randn(1 + rows * cols, c.vision_width) * 0.02)
        self.ln_pre, self.ln_post = LayerNorm(c.vision_width), LayerNorm(c.vision_width)
        self.image_blocks = nn.ModuleList(Block(c.vision_width) for _ in range(c.vision_depth))
        self.image_proj = nn.Parameter(torch.randn(c.vision_width, c.embed_dim) * 0.02)
        self.tokens = nn.Embedding(c.vocab_size, c.text_width)
        self.text_pos = nn.Parameter(torch.randn(c.text_length, c.text_width) * 0.01)
        self.text_blocks = nn.ModuleList(Block(c.text_width) for _ in range(c.text_depth))
        self.ln_final = LayerNorm(c.text_width)
        self.text_proj = nn.Parameter(torch.randn(c.text_width, c.embed_dim) * 0.02)
        mask = torch.full((c.text_length, c.text_length), float("-inf")).triu(1)
        self.register_buffer("mask", mask)
        d = c.embed_dim
        self.classifier = nn.Linear(d, c.num_persons)
        self.ln_t, self.ln_i, self.ln_f = LayerNorm(d), LayerNorm(d), LayerNorm(d)
        self.cross = nn.MultiheadAttention(d, d // 64, batch_first=True)
        self.fusion = nn.ModuleList(Block(d) for _ in range(c.fusion_depth))
        self.head = nn.Sequential(
            nn.Linear(d, d), QuickGELU(), LayerNorm(d), nn.Linear(d, c.vocab_size)
        )

    def image_tokens(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed_image(image)
        for block in self.image_blocks:
            x = block(x)
        return self.ln_post(x) @ self.image_proj

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv(image.to(self.conv.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), 1, -1).to(x.dtype), x], 1) + self.image_pos
        return self.ln_pre(x)

    def text_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.text_pos
        for block in self.text_blocks:
            x = block(x, self.mask)
        return self.ln_final(x) @ self.text_proj

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        if not self.fair:
            return self.image_tokens(image)[:, 0]
        x = self.embed_image(image)
        *blocks, last = cast(Sequence[Block], self.image_blocks)
        for block in blocks:
            x = block(x)
        x = last.at(x, torch.zeros(len(x), dtype=torch.long, device=x.device))[:, 0]
        return self.ln_post(x) @ self.image_proj

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.fair:
            return end_token(self.text_tokens(ids), ids)
        x = self.tokens(ids) + self.text_pos
        *blocks, last = cast(Sequence[Block], self.text_blocks)
        for block in blocks:
            x = block(x, self.mask)
        end = ids.argmax(1)
        behind = torch.arange(ids.shape[1], device=ids.device) > end[:, None]
        return self.ln_final(last.at(x, end, behind)[:, 0]) @ self.text_proj

    def forward(self, b: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens, words = self.image_tokens(b["image"]), self.text_tokens(b["mlm_ids"])
        captions = words if self.fair else self.text_tokens(b["text_ids"])
        image, text = tokens[:, 0].float(), end_token(captions, b["text_ids"]).float()
        sdm = sdm_loss(image, text, b["person_id"])
        identity = sum(
            F.cross_entropy(self.classifier(x.to(tokens.dtype)).float(), b["person_id"]) / 2
            for x in (image, text)
        )
        key = self.ln_i(tokens)
        x = self.cross(self.ln_t(words), key, key, need_weights=False)[0]
        for block in self.fusion:
            x = block(x)
        x, labels = self.ln_f(x).flatten(0, 1), b["labels"].flatten()
        if self.fair:
            labelled = labels.nonzero()[:, 0]
            x, labels = x[labelled], labels[labelled]
        scores = self.head(x).float()
        return sdm + identity + F.cross_entropy(scores, labels, ignore_index=0)


def sdm_loss(image: torch.Tensor, text: torch.Tensor, person_id: torch.Tensor) -> torch.Tensor:
    logits = 50.0 * F.normalize(text, dim=1) @ F.normalize(image, dim=1).T
    same = (person_id[:, None] == person_id[None]).float()
    label = (same / same.sum(1) + 1e-8).log()

    def direction(z: torch.Tensor) -> torch.Tensor:
        return (z.softmax(1) * (z.log_softmax(1) - label)).sum(1).mean()

    return direction(logits) + direction(logits.T)


def end_token(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return tokens[torch.arange(len(ids)), ids.argmax(1)]


def torch_batch(batch: dict[str, np.ndarray], config: Any) -> dict[str, torch.Tensor]:
    """The same batch as tensors: normalised image, masked ids and labels (15 % of the words)."""
    ids = torch.tensor(batch["text_ids"], dtype=torch.long)
    word = (ids > 0) & (ids < config.vocab_size - 3)
    picked = word & (torch.rand(ids.shape) < 0.15)
    image = torch.tensor(batch["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return {
        "image": image,
        "text_ids": ids,
        "mlm_ids": torch.where(picked, config.vocab_size - 3, ids),
        "labels": torch.where(picked, ids, 0),
        "person_id": torch.tensor(batch["person_id"], dtype=torch.long),
    }


class Twin:
    """A model of one recipe with its optimiser, on the GPU if there is one."""

    def __init__(self, config: Any, batch: dict[str, np.ndarray], recipe: str):
        name, self.fair = recipe.removesuffix(FAIR), recipe.endswith(FAIR)
        if name not in RECIPES:
            raise ValueError(f"recipe {recipe!r}, expected one of {RECIPES}, or one with {FAIR}")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = TorchIrra(config, fair=self.fair).to(self.device)
        if name == "half":
            self.model.half()
            for module in self.model.modules():
                if isinstance(module, nn.LayerNorm):
                    module.float()
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(name)
        self.autocast = (
            (lambda: torch.autocast(self.device, dtype)) if dtype else contextlib.nullcontext
        )
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "float16")
        self.batch = torch_batch(batch, config)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def on_device(self) -> dict[str, torch.Tensor]:
        return {key: value.to(self.device) for key, value in self.batch.items()}

    def train_call(self, steps: int) -> Callable[[], None]:
        """`steps` training steps, then a synchronisation."""
        optimizer = torch.optim.Adam(
            self.model.parameters(), lr=1e-5, eps=1e-3, weight_decay=4e-5, fused=self.fair
        )

        def call() -> None:
            for _ in range(steps):
                batch = self.on_device()
                optimizer.zero_grad(set_to_none=True)
                with self.autocast():
                    loss = self.model(batch)
                self.scaler.scale(loss).backward()
                self.scaler.step(optimizer)
                self.scaler.update()
            self.synchronize()

        return call

    def encode_calls(self) -> dict[str, Callable[[], None]]:
        """{"image", "text"}: one pass of a tower without gradients, from the device's memory."""
        batch = self.on_device()

        def call(encode: Callable, x: torch.Tensor) -> None:
            with torch.no_grad(), self.autocast():
                encode(x)
            self.synchronize()

        return {
            "image": lambda: call(self.model.encode_image, batch["image"]),
            "text": lambda: call(self.model.encode_text, batch["text_ids"]),
        }


def default_recipes() -> list[str]:
    """The fair twin, and beside it the released form."""
    if torch.cuda.is_available():
        return ["float16-fair", "half"]
    return ["float32-fair", "float32"]
