"""A gallery of people from the command line: put photos in, ask with a sentence.

  python -m tipr_jax.gallery add photos/ --model=runs/quickstart --gallery=my.gallery
  python -m tipr_jax.gallery search "a man in a red coat with a backpack" --gallery=my.gallery

A gallery is one file, or lies on a Milvus server: --gallery=http://host:19530/name, whose token is
taken from MILVUS_TOKEN. It holds what the model sees in the photos, not the photos, which stay
where they are. Every command explains itself: python -m tipr_jax.gallery search --help
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse
import sys
from collections.abc import Callable, Sequence

from tipr_jax import command_line

PROGRAM = "python -m tipr_jax.gallery"
WHERE = (
    "only items with this property; camera, time, tag, path, track, added or a field given with "
    "--meta; also repeated, as in --where camera=gate,hall --where 'time>=2026-11-01'"
)


def make_parser() -> command_line.Parser:
    example = f"{PROGRAM} add photos/ --model=runs/quickstart --gallery=my.gallery"
    parser = command_line.Parser(prog=PROGRAM, description=__doc__, example=example)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for describe in (_add, _search, _list, _delete, _reindex, _calibrate, _stats):
        describe(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, what: str, example: str
) -> command_line.Parser:
    call = f"{PROGRAM} {name} {example} --gallery=my.gallery"
    text = f"{what}\n\n  {call}"
    parser = commands.add_parser(name, help=what.split(". ")[0], description=text, example=call)
    parser.add_argument(
        "--gallery",
        required=True,
        help="its file, or its address on Milvus: http://host:19530/name",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for other programs")
    parser.set_defaults(run=_function(name))
    return parser


def _function(name: str) -> Callable[[argparse.Namespace], None]:
    def run(options: argparse.Namespace) -> None:
        from tipr_jax.gallery import commands

        getattr(commands, name)(options)

    return run


def _add(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "add",
        "Embed photos that are new or have changed. A folder is looked through with all below "
        "it; photos that vanished from it leave the gallery. Interrupted, it goes on when called "
        "again.",
        "photos/ --model=runs/quickstart --camera=gate",
    )
    parser.add_argument("places", nargs="+", metavar="PLACE", help="folders and photos")
    parser.add_argument(
        "--model", default="", help="run or model directory (default: the gallery's own)"
    )
    _checkpoint_language(parser)
    parser.add_argument(
        "--detect",
        metavar="DETECTOR",
        help="find the people in whole pictures and videos: nanodet, file:BOXES.csv or "
        "onnx:MODEL.onnx; none: every photo shows one person (default: as the gallery did before, "
        "at first none; a video that is named itself: nanodet)",
    )
    parser.add_argument(
        "--engine",
        choices=["ray"],
        default="",
        help="ray: embed by Ray Data's workers, for folders of hundreds of thousands, on the "
        "cluster that RAY_ADDRESS names (default: in this process)",
    )
    parser.add_argument("--camera", help="recorded with the new items, to filter by")
    parser.add_argument("--time", help="of the new items, as in 2026-11-29T14:30")
    parser.add_argument("--tag", action="append", default=[], help="a word to filter by; repeated")
    parser.add_argument(
        "--meta",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="your own field; repeated",
    )


def _search(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "search",
        "Rank the items by how well they fit a sentence, a picture, or both. Prints the ranking "
        "and draws it.",
        '"a man in a red coat with a backpack" --where camera=gate',
    )
    parser.add_argument("sentence", nargs="?", default="", help="describes the person")
    parser.add_argument("--like", metavar="IMAGE", default="", help="a picture of the person")
    _paged(parser, "matches", 10)
    parser.add_argument("--where", action="append", default=[], metavar="TERM", help=WHERE)
    parser.add_argument(
        "--language", default="", help="of the sentence, e.g. zh (default: the model's first)"
    )
    parser.add_argument(
        "--rerank",
        type=command_line.count,
        default=0,
        help="how many of the best matches a matching head orders anew (default: none)",
    )
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="let the device choose the candidates (faster on a TPU); the exact answer is found, "
        "too, and the recall is printed",
    )
    parser.add_argument(
        "--explain", action="store_true", help="what each word adds to the score of each match"
    )
    parser.add_argument(
        "--picture", help="where the picture goes (default: ./search.png; with --json: none)"
    )
    parser.add_argument(
        "--model", default="", help="where the gallery's model is now, if it was moved"
    )


def _list(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "list", "Show what the gallery holds, in item order.", "--where camera=gate"
    )
    _paged(parser, "items", 20)
    parser.add_argument("--where", action="append", default=[], metavar="TERM", help=WHERE)


def _delete(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "delete",
        "Remove items by id, by property or by age. The photos stay where they are; a photo that "
        "still lies in a folder comes back when the folder is added again.",
        "--where 'added<2026-01-01'",
    )
    parser.add_argument("--id", action="append", default=[], help="3 or 3,5,8; also repeated")
    parser.add_argument("--where", action="append", default=[], metavar="TERM", help=WHERE)


def _reindex(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "reindex",
        "Embed all items by another model. The old vectors answer until the last new one is there; "
        "interrupted, it goes on when called again.",
        "--model=runs/better",
    )
    parser.add_argument("--model", required=True, help="run or model directory")
    _checkpoint_language(parser)


def _calibrate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "calibrate",
        "Measure on labelled photos how often a score misleads, and draw a line under answers at a "
        "chosen rate of false alarms. Nothing is hidden below the line.",
        "--name=cuhk_pedes --root=data/synth_pedes",
    )
    parser.add_argument("--name", required=True, help="layout of the data set, as in training")
    parser.add_argument("--root", required=True, help="directory that contains the data set")
    parser.add_argument(
        "--split", default="val", choices=("train", "val", "test"), help="(default: val)"
    )
    parser.add_argument("--language", default="", help="of the sentences (the model's first)")
    parser.add_argument(
        "--rerank",
        type=command_line.count,
        default=0,
        help="also measure the matching head, on so many photos of each sentence",
    )
    parser.add_argument(
        "--false-alarms", type=float, default=0.05, help="where to draw the line (0.05)"
    )
    parser.add_argument("--model", default="", help="where the gallery's model is now")


def _stats(commands: argparse._SubParsersAction) -> None:
    _command(commands, "stats", "Figures of the gallery: items, models, size.", "")


def _checkpoint_language(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language",
        default="",
        help="of a run in several languages, take the checkpoint that is best in this one",
    )


def _paged(parser: argparse.ArgumentParser, what: str, default: int) -> None:
    parser.add_argument(
        "--top", type=command_line.count, default=default, help=f"{what} a page ({default})"
    )
    parser.add_argument("--page", type=command_line.count, default=1, help="which page (1)")


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(argv)
    command_line.setup_process()
    with command_line.mistakes_in_one_line():
        options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
