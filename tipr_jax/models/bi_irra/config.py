"""Bi-IRRA's sizes, losses and switches, with the published values as defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tipr_jax.models.method import ModelConfig, from_positions, from_shapes, from_use
from tipr_jax.nn.pos_embed import patch_grid
from tipr_jax.nn.xlm_roberta import PAD_ID, POSITIONS

LOSSES = ("itc", "itm", "mlm", "mim", "sdm", "id")
MASKED_STREAMS = ("none", "image", "text")
MIM_MASKS = ("block", "random", "grid")
MIM_SCOPES = ("batch", "sample")
MIM_TARGETS = ("feature", "cls", "attention")
MIM_DISTANCES = ("cos", "smooth_l1")
SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes, losses and switches; the defaults are the published run on CUHK-PEDES(M).

    The paper's ablations are changes of these fields: Table VI of `losses`, VII of `mim_target`
    and `mim_pairs`, VIII of `mim_mask`, IX of `itm_mask_*`, X of `itc_mask_*`.
    """

    image_size: tuple[int, int] = from_positions((224, 224))
    patch: int = from_shapes(16)
    width: int = from_shapes(768)  # of all three encoders
    vision_depth: int = from_shapes(12)
    vision_heads: int = from_shapes(12)
    drop_path: float = 0.1
    layer_scale: float = 0.1  # initial value
    text_depth: int = from_shapes(12)
    text_heads: int = from_shapes(12)  # of text tower and fusion encoder
    text_ffn: int = from_shapes(3072)
    text_length: int = from_positions(77)
    vocab_size: int = from_shapes(250002)  # the last id is the mask
    max_positions: int = from_shapes(514)
    positions: str = from_use("bert0")  # released: 0, 1, ...; "roberta": as in the pre-training
    dropout: float = 0.1  # of text tower and fusion encoder
    fusion_depth: int = from_shapes(6)
    fusion_epsilon: float = from_use(
        1e-5
    )  # of the LayerNorms; these six layers were pre-trained with 1e-12
    embed_dim: int = from_shapes(256)
    num_persons: int = from_shapes(11003, "classifier/bias")  # classes of the identity loss

    languages: tuple[str, ...] = ("en", "zh")  # source, then targets; one target as published
    # True (ours): every target language has a projection of its own.
    separate_target_proj: bool = from_shapes(False)

    losses: tuple[str, ...] = ("itc", "itm", "mlm", "mim")  # empty: the two towers alone
    itc_weight: float = 1.0
    itm_weight: float = 4.0
    mlm_weight: float = 1.0
    mim_weight: float = 4.0
    sdm_weight: float = 1.0
    id_weight: float = 1.0  # the paper does not tell

    temperature: float = 0.07  # initial value of the learned divisor
    temperature_range: tuple[float, float] = (0.001, 0.5)  # the released forward does not clamp
    sdm_temperature: float = 0.07
    # The released gather leaves 1/devices of the gradient of ITC to the encoders: 0.25 with the
    # published 4 GPUs. 1.0 is the plain formula.
    itc_feature_grad_scale: float = 0.25
    itc_mask_source: str = "none"  # none | image | text: which stream of the pair is masked
    itc_mask_target: str = "none"
    itm_mask_source: str = "none"
    itm_mask_target: str = "image"
    itm_group_size: int = 32  # negatives come from the same group of rows (released: a GPU's)

    mim_mask: str = "block"  # block | random | grid; drawn by the input pipeline, as the next two
    mim_ratio: float = 0.5
    mim_mask_scope: str = "batch"  # batch (released: one mask per GPU, here per group) | sample
    mim_target: str = "feature"  # feature | cls (token 0) | attention (of the last fusion layer)
    mim_loss: str = "cos"  # cos | smooth_l1
    # (language of the teacher, of the student); the distances of several pairs are summed.
    mim_pairs: tuple[tuple[str, str], ...] = (("source", "target"),)

    mlm_prob: float = 0.4  # drawn by the input pipeline, as the next three
    mlm_max_masks: int = 12
    mlm_span_prob: float = 0.2
    mlm_span_max: int = 3
    tie_decoder: bool = from_shapes(True)  # masked words are scored with the word embedding
    augment: bool = True

    def __post_init__(self):
        if unknown := set(self.losses) - set(LOSSES):
            raise ValueError(f"losses has {sorted(unknown)}, expected some of {LOSSES}")
        choices = {
            "positions": POSITIONS,
            "mim_mask": MIM_MASKS,
            "mim_mask_scope": MIM_SCOPES,
            "mim_target": MIM_TARGETS,
            "mim_loss": MIM_DISTANCES,
        } | {f"{loss}_mask_{side}": MASKED_STREAMS for loss in ("itc", "itm") for side in SIDES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {known}")
        wrong = [pair for pair in self.mim_pairs if len(pair) != 2 or set(pair) - set(SIDES)]
        if wrong or not self.mim_pairs:
            raise ValueError(
                f"mim_pairs is {self.mim_pairs}, expected pairs (teacher, student) of {SIDES}"
            )
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):
            raise ValueError(
                f"languages is {self.languages}, expected the source and at least one target"
            )
        for name in ("vision_heads", "text_heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"width {self.width} is not divisible by {name} {getattr(self, name)}"
                )
        low, high = self.temperature_range
        if not 0 < low <= self.temperature <= high:
            raise ValueError(
                f"temperature is {self.temperature}, expected a positive number within "
                f"temperature_range {self.temperature_range}"
            )
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1)")
        for name in ("mim_ratio", "mlm_prob", "mlm_span_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1]")
        for name, least in {"itm_group_size": 1, "mlm_max_masks": 1, "mlm_span_max": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        # RoBERTa's positions begin behind the padding id.
        needed = self.text_length + (PAD_ID + 1 if self.positions == "roberta" else 0)
        if needed > self.max_positions:
            raise ValueError(
                f"text_length {self.text_length} needs {needed} positions, max_positions is "
                f"{self.max_positions}; shorten it"
            )

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 1

    def masked(self, stream: str) -> bool:
        """Whether any configured loss reads the masked "image" or "text"."""
        pairs = [k for k in ("itc", "itm") if k in self.losses]
        fed = {getattr(self, f"{k}_mask_{side}") for k in pairs for side in SIDES}
        return stream in fed or {"image": "mim", "text": "mlm"}[stream] in self.losses

    @property
    def can_match(self) -> bool:
        return "itm" in self.losses

    @property
    def row_group(self) -> int:
        return self.itm_group_size

    def with_row_group(self, rows: int) -> "Config":
        return dataclasses.replace(self, itm_group_size=rows)

    @classmethod
    def bound_languages(cls, fields: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(fields["languages"][1:]) if fields.get("separate_target_proj") else ()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.image_size, self.patch, self.patch)

    def complete(self) -> "Config":
        """The same model with every optional head, against which optimiser patterns are checked."""
        return dataclasses.replace(self, losses=LOSSES, mim_target="feature", tie_decoder=False)

    def for_inference(self) -> "Config":
        """The same model without what only training needs; re-ranking keeps fusion and ITM head."""
        losses = ("itm",) if "itm" in self.losses else ()
        return dataclasses.replace(
            self, losses=losses, itm_mask_source="none", itm_mask_target="none"
        )

    @classmethod
    def base(cls, **changes) -> "Config":
        """The published model: 424,911,189 parameters."""
        return cls(**changes)

    @classmethod
    def tiny(cls, **changes) -> "Config":
        """A model for tests: two layers, 32 wide."""
        sizes: dict[str, Any] = dict(
            image_size=(32, 16),
            patch=8,
            width=32,
            vision_depth=2,
            vision_heads=2,
            text_depth=2,
            text_heads=2,
            text_ffn=64,
            text_length=12,
            vocab_size=128,
            max_positions=32,
            fusion_depth=2,
            embed_dim=16,
            num_persons=8,
            itm_group_size=4,
            mlm_max_masks=4,
        )
        return cls(**(sizes | changes))
