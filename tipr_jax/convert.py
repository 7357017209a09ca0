"""Converts weights offline: released files to a directory for `--config.init_from`, and back."""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.pretrained import (
    beit,
    bert,
    bi_irra,
    files,
    irra,
    ivt,
    openai_clip,
    timm_vit,
    xlm_roberta,
)
from tipr_jax.pretrained.key_table import StateDict, flatten, unflatten

DESCRIPTION = """\
Converts weights between released checkpoints and tipr_jax.

  --method=openai_clip  CLIP with a ViT image encoder: OpenAI's .pt, or CLIPModel .safetensors from
                        Hugging Face. Gives the two towers; the image positions are resized to
                        --image_size and --stride. Start of IRRA training.
  --method=irra         best.pth of the released IRRA. With --reverse: the official names again,
                        readable by the released PyTorch code.
  --method=ivt_init     --input: timm's ViT (jx_vit_base_p16_224), --text: BERT-base-uncased. Start
                        of IVT's training and pre-training; positions resized as above.
                        --method=timm_vit and --method=bert convert one of the two alone.
  --method=bi_irra      a checkpoint of the released Bi-IRRA, or of X2-VLM / CCLM (.th), where its
                        training starts. With --reverse: the released names again.
  --method=bi_irra_init --input: BEiT v2, --text: XLM-R. A start without X2-VLM; the fusion encoder
                        is fresh. --method=beit and --method=xlm_roberta convert one of the two.
  --method=ivt          a checkpoint of the released IVT, fine-tuned or pre-training. With
                        --reverse: the official names again, without tensors that the released
                        model never reads (its loader does not miss them).

All model sizes are read off the tensors' shapes; an unknown, missing or mis-shaped tensor is an
error. Reading or writing .pt/.pth/.th needs PyTorch (pip install 'tipr_jax[convert]')."""

EXAMPLES = """\
examples:
  python -m tipr_jax.convert --method=openai_clip --input=ViT-B-16.pt --output=weights/clip_b16
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/irra \\
      --config.init_from=weights/clip_b16
  python -m tipr_jax.convert --method=ivt_init --input=jx_vit_base_p16_224.safetensors \\
      --text=bert-base-uncased/model.safetensors --stride=12 --output=weights/ivt_init

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


def convert_ivt(
    state_dict: StateDict, image_size: tuple[int, int], stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Released IVT state dict -> (parameters, fields of models.ivt.Config)."""
    return ivt.from_torch(state_dict), ivt.infer_config(state_dict, image_size, stride)


def convert_timm_vit(
    state_dict: StateDict, image_size: tuple[int, int], stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """timm ViT -> (IVT's image and shared parts, positions resized; fields of its Config)."""
    from tipr_jax.nn.pos_embed import resize_pos_embed

    params, config = timm_vit.from_torch(state_dict), timm_vit.infer_config(state_dict)
    config |= {"image_size": tuple(image_size), "stride": stride or config["patch"]}
    encoder, grid = params["encoder"], ivt.grid_of(config)
    encoder["pos_embed"] = np.asarray(resize_pos_embed(encoder["pos_embed"], grid))
    return params, config


def convert_bert(
    state_dict: StateDict, image_size: tuple[int, int], stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """BERT -> (IVT's text parts, fusion encoder and word head; fields of models.ivt.Config)."""
    del image_size, stride
    return bert.from_torch(state_dict), bert.infer_config(state_dict)


def convert_ivt_init(
    image: StateDict, text: StateDict, image_size: tuple[int, int], stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """timm ViT and BERT -> (where IVT's training starts; fields of models.ivt.Config).

    `type_embed` has no source and starts fresh.
    """
    (visual, sizes), (textual, text_sizes) = (
        convert_timm_vit(image, image_size, stride),
        convert_bert(text, image_size, stride),
    )
    for name in ("width", "depth"):
        if sizes[name] != text_sizes[name]:
            raise ValueError(
                f"{name} of the ViT is {sizes[name]}, of the BERT {text_sizes[name]}; they share "
                "one transformer, so take two models of one size"
            )
    return unflatten(flatten(visual) | flatten(textual)), text_sizes | sizes


def convert_bi_irra(
    state_dict: StateDict,
    image_size: tuple[int, int] | None,
    stride: int | None,
    tied_source: str = "decoder",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Released Bi-IRRA or X2-VLM state dict -> (parameters, fields of models.bi_irra.Config)."""
    del stride
    params = bi_irra.from_torch(state_dict, tied_source)
    return params, bi_irra.infer_config(state_dict, image_size, tied_source)


def convert_beit(
    state_dict: StateDict, image_size: tuple[int, int] | None, stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """BEiT v2 -> (Bi-IRRA's image tower, fields of models.bi_irra.Config)."""
    del stride
    return beit.from_torch(state_dict), beit.infer_config(state_dict, image_size)


def convert_xlm_roberta(
    state_dict: StateDict, image_size: tuple[int, int] | None, stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """XLM-R -> (Bi-IRRA's text tower and word head, fields of models.bi_irra.Config)."""
    del image_size, stride
    return xlm_roberta.from_torch(state_dict), xlm_roberta.infer_config(state_dict)


def convert_bi_irra_init(
    image: StateDict, text: StateDict, image_size: tuple[int, int] | None, stride: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """BEiT v2 and XLM-R -> (both towers, fields of models.bi_irra.Config); no fusion encoder."""
    visual, sizes = convert_beit(image, image_size, stride)
    textual, text_sizes = convert_xlm_roberta(text, image_size, stride)
    if sizes["width"] != text_sizes["width"]:
        raise ValueError(
            f"width of the BEiT is {sizes['width']}, of the XLM-R {text_sizes['width']}; the "
            "fusion encoder reads both, so take two models of one width"
        )
    return visual | textual, text_sizes | sizes


class Converter(NamedTuple):
    """model: the method whose parameters these are; `forward` reads, `reverse` writes official
    names. image_size: the default, None where the file tells. sources: files it reads.
    test_resize: filter for photos in searches with the converted model."""

    model: str
    forward: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    reverse: Callable[[dict[str, Any]], StateDict] | None = None
    image_size: tuple[int, int] | None = (384, 128)
    sources: int = 1
    test_resize: str = "bilinear"


def reverse_bi_irra(params: dict[str, Any]) -> StateDict:
    return bi_irra.with_tied_names(bi_irra.to_torch(params))


METHODS = {
    "openai_clip": Converter("irra", convert_clip),
    "irra": Converter("irra", convert_irra, irra.to_torch),
    "ivt": Converter("ivt", convert_ivt, ivt.to_torch),
    "ivt_init": Converter("ivt", convert_ivt_init, sources=2),
    "bert": Converter("ivt", convert_bert),
    "timm_vit": Converter("ivt", convert_timm_vit),
    "bi_irra": Converter("bi_irra", convert_bi_irra, reverse_bi_irra, None, 1, "bicubic"),
    "bi_irra_init": Converter("bi_irra", convert_bi_irra_init, image_size=None, sources=2),
    "beit": Converter("bi_irra", convert_beit, image_size=None),
    "xlm_roberta": Converter("bi_irra", convert_xlm_roberta, image_size=None),
}


def forward(
    method: str,
    sources: Sequence[Path],
    output: Path,
    image_size: tuple[int, int] | None,
    stride: int | None,
    **options: str,
) -> str:
    """Converts tensor files into a directory for `--config.init_from`; returns a summary."""
    from tipr_jax.checkpoints import save_params
    from tipr_jax.models import MODELS

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty; choose another --output")
    converter = METHODS[method]
    size = image_size or converter.image_size
    states = map(files.read_state_dict, sources)
    params, config = converter.forward(*states, size, stride, **options)
    MODELS[converter.model].config(**config)  # raises for sizes that the model does not support
    fields = {"method": converter.model, "model": config, "test_resize": converter.test_resize}
    save_params(output, params, fields)
    return summary(", ".join(map(str, sources)), output, flatten(params)) + "".join(
        f"\n  {name:14} {value}" for name, value in config.items()
    )


def reverse(method: str, source: Path, output: Path) -> str:
    """Writes a converted directory, or a run's best checkpoint, with the official names."""
    from tipr_jax.checkpoints import load_params, model_fields

    found = model_fields(source)[0]
    if found != METHODS[method].model:
        raise ValueError(
            f"{source} is a checkpoint of {found!r}, not {method!r}; use that --method"
        )
    state_dict = METHODS[method].reverse(load_params(source)[1])
    files.write_state_dict(output, state_dict)
    return summary(source, output, state_dict)


def summary(source: Path | str, output: Path, arrays: dict[str, np.ndarray]) -> str:
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
    parser.add_argument("--text", type=Path, help="tensor file of the text model, for *_init")
    parser.add_argument("--reverse", action="store_true", help="write the official names")
    parser.add_argument(
        "--image_size",
        type=parse_size,
        help="HEIGHT,WIDTH (default 384,128; Bi-IRRA: what the file was made for)",
    )
    parser.add_argument(
        "--tied_source",
        choices=bi_irra.TIED_SOURCES,
        help="--method=bi_irra: the matrix to take if the decoder of masked words is not the word "
        "embedding (default decoder, as loading with PyTorch does)",
    )
    parser.add_argument(
        "--stride", type=int, help="pixels between patches (default: the patch size; less overlaps)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of optional metadata
    try:
        if args.reverse and METHODS[args.method].reverse is None:
            known = " or ".join(f"--method={k}" for k, v in METHODS.items() if v.reverse)
            raise ValueError(f"--reverse writes released checkpoints only; use {known}")
        if (args.text is not None) != (METHODS[args.method].sources == 2):
            two = " and ".join(f"--method={k}" for k, v in METHODS.items() if v.sources == 2)
            raise ValueError(f"{two}, and no other, need a --text file")
        if args.tied_source and args.method != "bi_irra":
            raise ValueError("--tied_source is for --method=bi_irra only")
        options = {"tied_source": args.tied_source} if args.tied_source else {}
        if args.reverse:
            print(reverse(args.method, args.input, args.output))
        else:
            sources = [args.input] if args.text is None else [args.input, args.text]
            shape = args.image_size, args.stride
            print(forward(args.method, sources, args.output, *shape, **options))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
