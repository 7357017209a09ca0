"""Converts weights offline: released files to a directory for `--config.init_from`, and back."""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse
import logging
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tipr_jax import command_line
from tipr_jax.param_tree import flatten
from tipr_jax.paths import local_path, model_path
from tipr_jax.pretrained import files
from tipr_jax.pretrained.converter import Converter, converters, get_converter
from tipr_jax.pretrained.settings import read_settings

DESCRIPTION = """\
Converts weights between released checkpoints and tipr_jax.

%s

All model sizes are read off the tensors' shapes; an unknown, missing or mis-shaped tensor is an
error. Reading or writing .pt/.pth/.th needs PyTorch (pip install 'tipr_jax[convert]')."""

EXAMPLES = """\
examples:
  python -m tipr_jax.convert --method=openai_clip --input=ViT-B-16.pt --output=weights/clip_b16
  python -m tipr_jax.convert --method=openai_clip --input=hf://openai/clip-vit-base-patch16 \\
      --output=weights/clip_b16
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/irra \\
      --config.init_from=weights/clip_b16
  python -m tipr_jax.convert --method=ivt_init --input=jx_vit_base_p16_224.safetensors \\
      --text=bert-base-uncased/model.safetensors --stride=12 --output=weights/ivt_init

  python -m tipr_jax.convert --method=irra --input=best.pth --output=weights/irra_cuhk
  python -m tipr_jax.convert --method=irra --reverse --input=runs/irra --output=best.pth"""


def forward(
    converter: Converter,
    sources: Sequence[Path],
    output: Path,
    image_size: tuple[int, int] | None,
    stride: int | None,
    **options: str,
) -> str:
    """Converts tensor files into a directory for `--config.init_from`; returns a summary."""
    from tipr_jax.checkpoints import save_params
    from tipr_jax.models import get_method

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty; choose another --output")
    size = image_size or converter.image_size
    states = map(files.read_state_dict, sources)
    beside = {"settings": [*map(read_settings, sources)]} if converter.reads_settings else {}
    params, config = converter.forward(*states, size, stride, **beside, **options)
    get_method(converter.method).config(**config)  # raises for sizes that it does not support
    fields = {"method": converter.method, "model": config, "test_resize": converter.test_resize}
    save_params(output, params, fields)
    return summary(", ".join(map(str, sources)), output, flatten(params)) + "".join(
        f"\n  {name:14} {value}" for name, value in config.items()
    )


def reverse(converter: Converter, source: Path, output: Path) -> str:
    """Writes a converted directory, or a run's best checkpoint, with the official names."""
    from tipr_jax.checkpoints import load_params
    from tipr_jax.run_files import model_fields

    if converter.reverse is None:
        known = " or ".join(f"--method={k}" for k, v in converters().items() if v.reverse)
        raise ValueError(f"--reverse writes released checkpoints only; use {known}")
    if (found := model_fields(source)[0]) != converter.method:
        raise ValueError(
            f"{source} is a checkpoint of {found!r}, not {converter.method!r}; use that --method"
        )
    state_dict = converter.reverse(load_params(source)[1])
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


def described(table: Iterable[tuple[str, Converter]]) -> str:
    """One paragraph per converter, for --help."""
    lines = []
    for name, converter in table:
        first = f"  --method={name}"
        text = textwrap.fill(
            converter.help, 100, initial_indent=" " * 24, subsequent_indent=" " * 24
        )
        lines.append(f"{first:24}{text.lstrip()}" if len(first) < 24 else f"{first}\n{text}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.Parser(
        prog="python -m tipr_jax.convert",
        description=DESCRIPTION % described(converters().items()),
        epilog=EXAMPLES,
        example="python -m tipr_jax.convert --method=openai_clip --input=ViT-B-16.pt "
        "--output=weights/clip_b16",
    )
    parser.add_argument(
        "--method", required=True, help="what to convert, see above; or module.name of your own"
    )
    parser.add_argument(
        "--input",
        required=True,
        help="tensor file or folder, also hf://OWNER/NAME[/FILE]; with --reverse: directory",
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="directory; with --reverse: .pth or .safetensors"
    )
    parser.add_argument("--text", help="tensor file or folder of the text model, for *_init")
    parser.add_argument("--reverse", action="store_true", help="write the official names")
    parser.add_argument(
        "--image_size",
        type=parse_size,
        help="HEIGHT,WIDTH (default 384,128, or what the file was made for where it tells)",
    )
    parser.add_argument(
        "--stride", type=int, help="pixels between patches (default: the patch size; less overlaps)"
    )
    takers: dict[str, list[str]] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for name, converter in converters().items():
        for option, known in converter.options.items():
            takers.setdefault(option, []).append(name)
            choices[option] = known
    for option, names in takers.items():
        wanted = " or ".join(f"--method={name}" for name in names)
        parser.add_argument(f"--{option}", choices=choices[option], help=f"for {wanted}")
    return parser


def options_of(converter: Converter, args: argparse.Namespace) -> dict[str, str]:
    """The converter's own options as given; raises ValueError for one of another converter."""
    given = {}
    for name, other in converters().items():
        for option in other.options:
            value = getattr(args, option)
            if value and option not in converter.options:
                raise ValueError(f"--{option} is for --method={name}, given with another")
            given |= {option: value} if value else {}
    return given


def run(args: argparse.Namespace) -> str:
    """What the command prints; raises ValueError or OSError with one line."""
    converter = get_converter(args.method)
    if (args.text is not None) != (converter.sources == 2):
        two = " and ".join(f"--method={k}" for k, v in converters().items() if v.sources == 2)
        raise ValueError(f"{two}, and no other, need a --text file")
    options = options_of(converter, args)
    output, source = local_path(args.output, "--output"), model_path(args.input, "--input")
    if args.reverse:
        return reverse(converter, source, output)
    sources = [source] if args.text is None else [source, model_path(args.text, "--text")]
    return forward(converter, sources, output, args.image_size, args.stride, **options)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of optional metadata
    command_line.tolerant_output()
    with command_line.mistakes_in_one_line():
        print(run(args))


if __name__ == "__main__":
    main()
