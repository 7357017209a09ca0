"""RDE's sizes, losses and switches."""

import dataclasses
from typing import Any

from tipr_jax.models.method import ModelConfig, from_positions, from_shapes, from_use
from tipr_jax.nn.transformer import ACTIVATIONS

LOSSES = ("tal", "trl", "infonce", "sdm")
BATCH_NORMS = ("frozen", "batch")
DIVISIONS = ("loose", "tight", "none")
SIMILARITIES = ("mean", "bge", "tse")


@dataclasses.dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes, losses and switches of RDE; the defaults are the published run on CUHK-PEDES."""

    image_size: tuple[int, int] = from_positions((384, 128))
    patch: int = from_shapes(16)
    stride: int = from_positions(16)
    vision_width: int = from_shapes(768)
    vision_depth: int = from_shapes(12)
    text_width: int = from_shapes(512)
    text_depth: int = from_shapes(12)
    text_length: int = from_positions(77)
    vocab_size: int = from_shapes(49408)  # the last three ids are mask, start and end
    embed_dim: int = from_shapes(512)  # the global embedding (BGE)
    # Towers that are not OpenAI's, as in IRRA: other heads, other feed-forward layers (hidden width
    # 0: four times the width), and the exact "gelu".
    vision_head_dim: int = from_shapes(64)
    text_head_dim: int = from_shapes(64)
    vision_hidden: int = from_shapes(0)
    text_hidden: int = from_shapes(0)
    activation: str = from_shapes("quick_gelu")
    tse_dim: int = from_shapes(
        1024, "image_selection/out_proj/bias"
    )  # the token-selection embedding
    # Share of the patches, and of the places of a caption, that the token-selection embedding sees.
    select_ratio: float = from_use(0.3)

    losses: tuple[str, ...] = ("tal",)  # one of tal, trl, infonce, sdm; empty: evaluation alone
    tau: float = 0.015  # of TAL, and of the positives' weights in TRL
    margin: float = 0.1  # of TAL and TRL
    temperature: float = 0.02  # of InfoNCE and SDM: constant, never learned
    # frozen: the running statistics are constants, in training, too. So ran the published runs
    # (their pass over the pairs left the model in evaluation mode). batch: the later repository
    # trains with statistics of the batch, which its author found to cost accuracy under noise.
    batch_norm: str = "frozen"
    # How the mixture divides clean from noisy pairs. loose: at most 10 rounds; tight: up to 100,
    # which the release takes when more than 40 % of the pairs are declared noisy, and on RSTPReid;
    # none: all pairs are clean (the pass over them is made all the same).
    division: str = "loose"
    # By which of the two embeddings items are compared: the mean of both similarities, or one.
    similarity: str = "mean"
    augment: bool = True
    augment_text: bool = True
    # The padding before the random crop: 10 pixels at a height of 384, and in proportion at other
    # sizes; False: 10 pixels at any size, as released.
    scale_crop_padding: bool = True

    def __post_init__(self):
        if len(self.losses) > 1 or not set(self.losses) <= set(LOSSES):
            raise ValueError(f"losses is {self.losses}, expected one of {LOSSES}")
        choices = {"batch_norm": BATCH_NORMS, "division": DIVISIONS, "similarity": SIMILARITIES}
        for name, known in (choices | {"activation": tuple(ACTIVATIONS)}).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {known}")
        for name in ("tau", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        units = {"vision_width": self.vision_head_dim, "text_width": self.text_head_dim}
        for name, unit in (units | {"tse_dim": 2}).items():
            if unit < 1 or getattr(self, name) % unit:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a multiple of {unit}")
        if not 0 < self.select_ratio <= 1 or min(self.selected_patches, self.selected_words) < 1:
            raise ValueError(
                f"select_ratio is {self.select_ratio}, expected at most 1 and enough for one of "
                f"{self.patches} patches and one of {self.text_length - 2} words"
            )

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        rows, cols = ((size - self.patch) // self.stride + 1 for size in self.image_size)
        return rows * cols

    @property
    def selected_patches(self) -> int:
        return int(self.patches * self.select_ratio)  # cut, as released: 192 * 0.3 gives 57

    @property
    def selected_words(self) -> int:
        """Of the places of a text without its two marks, whatever the caption."""
        return int((self.text_length - 2) * self.select_ratio)

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 3

    @classmethod
    def tiny(cls, **changes) -> "Config":
        """A model for tests: two layers, 64 wide."""
        sizes: dict[str, Any] = dict(
            image_size=(32, 16),
            patch=8,
            stride=8,
            vision_width=64,
            vision_depth=2,
            text_width=64,
            text_depth=2,
            text_length=16,
            vocab_size=128,
            embed_dim=64,
            tse_dim=64,
        )
        return cls(**(sizes | changes))
