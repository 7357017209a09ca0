"""The toy paper's released file: our parameters under other names, linear layers transposed."""

import numpy as np

from tipr_jax.param_tree import Params, flatten, unflatten
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import StateDict


def to_official(params: Params) -> StateDict:
    return {
        f"toy.{path.replace('/', '.')}": np.asarray(value).T
        for path, value in flatten(params).items()
    }


def from_official(
    state_dict: StateDict, image_size: tuple[int, int], stride: int | None
) -> Converted:
    leaves = {k.removeprefix("toy.").replace(".", "/"): v.T for k, v in state_dict.items()}
    vocab_size, width = leaves["word_embed/embedding"].shape
    return unflatten(leaves), {"vocab_size": vocab_size, "width": width, "image_size": image_size}


CONVERTERS = {
    "toy": Converter(
        method="toy_paper.method",
        forward=from_official,
        reverse=to_official,
        image_size=(32, 16),
        help="the toy paper's file",
    )
}
