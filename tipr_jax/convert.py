"""Converts weights offline: released files to a directory for `--config.init_from`, and back."""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tipr_jax.pretrained import files, irra, openai_clip
from tipr_jax.pretrained.key_table import StateDict, flatten

DESCRIPTION = """\
Converts weights between released checkpoints and tipr_jax.

  --method=openai_clip  CLIP with a ViT image encoder: OpenAI's .pt, or CLIPModel .safetensors from
                        Hugging Face. Gives the two towers; the image positions are resized to
                        --image_size and --stride. Start of IRRA training.
  --method=irra         best.pth of the released IRRA. With --reverse: the official names again,
                        readable by the released PyTorch code.

All model sizes are read off the tensors' shapes; an unknown, missing or mis-shaped tensor is an
error. Reading or writing .pt/.pth needs PyTorch (pip install 'tipr_jax[convert]')."""

EXAMPLES = """\
examples:
  python -m tipr_jax.convert --method=openai_clip --input=ViT-B-16.pt --output=weights/clip_b16
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/irra \\
      --config.init_from=weights/clip_b16

  python -m tipr_jax.convert --method=irra --input=best.pth --output=weights/irra_cuhk
  python -m tipr_jax.convert --method=irra --reverse --input=runs/irra --output=best.pth"""


def convert_irra(
    state_dict: StateDict, image_size: tuple[int, int], stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Released IRRA state dict -> (parameters, fields of models.irra.Config)."""
    return irra.from_torch(state_dict), irra.infer_config(state_dict, image_size, stride)


def convert_clip(
    state_dict: StateDict, image_size: tuple[int, int], stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """CLIP state dict -> (both towers, image positions resized; fields of models.irra.Config).

    The config lacks what CLIP does not decide: losses, heads, number of persons.
    """
    from tipr_jax.nn.pos_embed import patch_grid, resize_pos_embed

    params, config = openai_clip.from_torch(state_dict), openai_clip.infer_config(state_dict)
    stride = stride or config["patch"]
    grid = patch_grid(image_size, config["patch"], stride)
    image_encoder = params["image_encoder"]
    image_encoder["pos_embed"] = np.asarray(resize_pos_embed(image_encoder["pos_embed"], grid))
    return params, config | {"image_size": tuple(image_size), "stride": stride}


METHODS: dict[str, Callable] = {"openai_clip": convert_clip, "irra": convert_irra}


def forward(
    method: str, source: Path, output: Path, image_size: tuple[int, int], stride: int | None
) -> str:
    """Converts a tensor file into a directory for `--config.init_from`; returns a summary."""
    from tipr_jax.checkpoints import save_params
    from tipr_jax.models.irra import Config

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty; choose another --output")
    params, config = METHODS[method](files.read_state_dict(source), image_size, stride)
    Config(**config)  # raises for sizes that the model does not support
    save_params(output, params, {"method": "irra", "model": config})
    return summary(source, output, flatten(params)) + "".join(
        f"\n  {name:14} {value}" for name, value in config.items()
    )


def reverse(source: Path, output: Path) -> str:
    """Writes a converted directory, or a run's best checkpoint, with the official IRRA names."""
    from tipr_jax.checkpoints import load_params

    state_dict = irra.to_torch(load_params(source)[1])
    files.write_state_dict(output, state_dict)
    return summary(source, output, state_dict)


def summary(source: Path, output: Path, arrays: dict[str, np.ndarray]) -> str:
    count = sum(math.prod(np.shape(x)) for x in arrays.values())
    return f"{source} -> {output}: {len(arrays)} tensors, {count:,} parameters"


def parse_size(text: str) -> tuple[int, int]:
    """ "384,128" -> (384, 128)."""
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHT,WIDTH, e.g. 384,128") from None
    return height, width


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tipr_jax.convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", required=True, choices=sorted(METHODS))
    parser.add_argument(
        "--input", required=True, type=Path, help="tensor file; with --reverse: directory"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="directory; with --reverse: .pth or .safetensors"
    )
    parser.add_argument("--reverse", action="store_true", help="write official IRRA names")
    parser.add_argument(
        "--image_size", type=parse_size, default=(384, 128), help="HEIGHT,WIDTH (default 384,128)"
    )
    parser.add_argument(
        "--stride", type=int, help="pixels between patches (default: the patch size; less overlaps)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of optional metadata
    try:
        if args.reverse and args.method != "irra":
            raise ValueError("--reverse writes IRRA checkpoints only; use --method=irra")
        if args.reverse:
            print(reverse(args.input, args.output))
        else:
            print(forward(args.method, args.input, args.output, args.image_size, args.stride))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
