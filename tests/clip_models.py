"""Tiny CLIP and IRRA state dicts in foreign layouts, filled with random numbers."""

import numpy as np


def block(prefix: str, width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
    }
    return {f"{prefix}.{k}": fill(shape, rng) for k, shape in shapes.items()}


def fill(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """float32 that float16 can hold."""
    return (0.1 * rng.normal(size=shape)).astype(np.float16).astype(np.float32)


def openai_clip(
    *,
    grid: int = 3,
    patch: int = 8,
    vision: int = 128,
    text: int = 64,
    depth: int = 2,
    vocab: int = 128,
    text_length: int = 16,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Shared embedding 64; `depth` + 1 text layers."""
    rng = np.random.default_rng(seed)
    shapes = {
        "positional_embedding": (text_length, text),
        "text_projection": (text, 64),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": (1 + grid * grid, vision),
        "visual.proj": (vision, 64),
        "visual.conv1.weight": (vision, 3, patch, patch),
        "visual.ln_pre.weight": (vision,),
        "visual.ln_pre.bias": (vision,),
        "visual.ln_post.weight": (vision,),
        "visual.ln_post.bias": (vision,),
        "token_embedding.weight": (vocab, text),
        "ln_final.weight": (text,),
        "ln_final.bias": (text,),
    }
    state = {key: fill(shape, rng) for key, shape in shapes.items()}
    for i in range(depth):
        state |= block(f"visual.transformer.resblocks.{i}", vision, rng)
    for i in range(depth + 1):
        state |= block(f"transformer.resblocks.{i}", text, rng)
    return state


def official_irra(
    *,
    persons: int = 7,
    rows: int = 3,
    cols: int = 2,
    vocab: int = 128,
    text_length: int = 16,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """An IRRA state dict for images of rows x cols patches of 8 pixels."""
    clip = openai_clip(vocab=vocab, text_length=text_length, seed=seed)
    rng = np.random.default_rng(seed + 1)
    clip["visual.positional_embedding"] = fill((1 + rows * cols, 128), rng)
    state = {f"base_model.{key}": value for key, value in clip.items()}
    shapes = {
        "classifier.weight": (persons, 64),
        "classifier.bias": (persons,),
        "cross_attn.in_proj_weight": (192, 64),
        "cross_attn.in_proj_bias": (192,),
        "cross_attn.out_proj.weight": (64, 64),
        "cross_attn.out_proj.bias": (64,),
        "mlm_head.dense.weight": (64, 64),
        "mlm_head.dense.bias": (64,),
        "mlm_head.fc.weight": (vocab, 64),
        "mlm_head.fc.bias": (vocab,),
    }
    for name in ("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head.ln"):
        shapes |= {f"{name}.weight": (64,), f"{name}.bias": (64,)}
    state |= {key: fill(shape, rng) for key, shape in shapes.items()}
    return state | block("cross_modal_transformer.resblocks.0", 64, rng)


def hugging_face(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same CLIP as a Hugging Face CLIPModel names and lays it out."""
    names = {
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    }
    inside = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    renamed = {
        "logit_scale": np.float32(4.6),
        "text_model.embeddings.position_ids": np.arange(16)[None],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
    }
    for key, value in state.items():
        if key in names:
            renamed[names[key]] = value
        elif "resblocks" in key:
            tower, rest = key.split("transformer.resblocks.")
            layer, part = rest.split(".", 1)
            prefix = f"{'vision' if tower else 'text'}_model.encoder.layers.{layer}"
            if part.startswith("attn.in_proj_"):
                kind = part.removeprefix("attn.in_proj_")
                for name, third in zip("qkv", np.split(value, 3), strict=True):
                    renamed[f"{prefix}.self_attn.{name}_proj.{kind}"] = third
            else:
                name, kind = part.rsplit(".", 1)
                renamed[f"{prefix}.{inside[name]}.{kind}"] = value
    return {key: np.ascontiguousarray(value) for key, value in renamed.items()}
