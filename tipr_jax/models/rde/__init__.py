"""RDE: robust dual embedding for noisy correspondence (Qin et al., CVPR 2024, arXiv 2308.09911).

Two CLIP towers give a global embedding (BGE) and one of the most attended tokens (TSE) of each
image and text. Before each epoch the pairs are divided into clean and noisy ones by their losses;
the clean ones are trained with a triplet alignment loss against all negatives of the batch.
`config` holds sizes and switches, `model` the network, `objective` the training, `division` the
choice of clean pairs.
"""

from tipr_jax.batch import ColumnSpec, PairIndex
from tipr_jax.models.method import Adopted, EpochHook, Method, Params, with_resized
from tipr_jax.models.rde import division, objective
from tipr_jax.models.rde.config import Config
from tipr_jax.models.rde.model import Rde
from tipr_jax.nn.pos_embed import first_positions, patch_grid, resize_pos_embed

__all__ = ["METHOD", "Config", "Rde"]


def columns(config: Config) -> tuple[ColumnSpec, ...]:
    """The number of each pair, by which the division remembers it."""
    del config
    return (PairIndex(),)


def adopt(
    loaded: Params, fresh: Params, source: Config, target: Config, as_official: bool
) -> Adopted:
    """How CLIP, IRRA or another run enters this model, see `Method.adopt`.

    Image positions are resized between the grids of patches, as the released code resizes CLIP's;
    of the text positions the first are kept.

    Raises:
      ValueError: `text_length` is longer than the source's.
    """
    del fresh, as_official  # the released code resizes, too
    grids = [patch_grid(c.image_size, c.patch, c.stride) for c in (source, target)]
    resize, notes = {}, []
    if grids[0] != grids[1]:
        resize["image_encoder/pos_embed"] = lambda x: resize_pos_embed(x, grids[1], grids[0])
        notes.append("resized {}x{} -> {}x{}".format(*grids[0], *grids[1]))
    if source.text_length != target.text_length:
        resize["text_encoder/pos_embed"] = lambda x: first_positions(x, target.text_length)
        notes.append(f"positions {source.text_length} -> {target.text_length}")
    return with_resized(loaded, "; ".join(notes), resize)


METHOD = Method(
    config=Config,
    model=Rde,
    prepare_inputs=objective.prepare_inputs,
    objective=objective.objective,
    columns=columns,
    tokenizer="clip_bpe",
    adopt=adopt,
    backbone="clip",
    epoch_hook=EpochHook(objective.score, division.divide, division.arrays),
)
