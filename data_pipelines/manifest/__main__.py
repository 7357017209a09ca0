"""Command line for own photos: `python -m data_pipelines.manifest --help`."""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse

from data_pipelines.manifest import make
from tipr_jax import command_line

_DESCRIPTION = """\
Writes a first manifest for a folder of photos: a table of file names and captions, to be completed
in a spreadsheet. The columns: python -m pydoc data_pipelines.manifest"""
_EXAMPLES = """\
examples:
  python -m data_pipelines.manifest make photos/                           # captions in PHOTO.txt
  python -m data_pipelines.manifest make photos/ --captions=names          # man_red_coat_01.jpg
  python -m data_pipelines.manifest make photos/ --captions=sentences.csv --person_id=folder
then:
  python -m data_pipelines.check --name=manifest --root=photos/
  python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=runs/own \\
      --config.data.name=manifest --config.data.root=photos/"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; exits with a message when it makes no sense."""
    parser = command_line.Parser(
        "python -m data_pipelines.manifest", description=_DESCRIPTION, epilog=_EXAMPLES,
        example="python -m data_pipelines.manifest make photos/",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="make")
    add = commands.add_parser(
        "make",
        help="write a manifest for a folder",
        example="python -m data_pipelines.manifest make photos/",
    ).add_argument
    add("photos", metavar="PHOTOS", help="a folder, searched with all below it")
    add(
        "--captions",
        default="txt",
        metavar="txt|names|FILE",
        help="from PHOTO.txt, one a line (default); from the words of the file names; or from a "
        "table with the columns file and caption",
    )
    add(
        "--person_id",
        default="none",
        choices=tuple(make.PERSON_IDS),
        help="from the photo's folder, or from the file name up to the first _ - or space; "
        "default: none, each photo a person of its own",
    )
    add("--output", default="", metavar="FILE.csv", help="default: manifest.csv in the folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    command_line.tolerant_output()
    with command_line.mistakes_in_one_line():
        path, counts = make.make_manifest(
            options.photos, options.captions, options.person_id, options.output
        )
        print(f"{path}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))
        print(f"next: python -m data_pipelines.check --name=manifest --root={path}")


if __name__ == "__main__":
    main()
