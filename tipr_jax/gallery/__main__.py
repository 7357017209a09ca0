"""Search photos from the command line: a ranking, and a picture of it.

  python -m tipr_jax.gallery --model=runs/quickstart --images=photos/ --query="a man in a red coat"

Every JPEG, PNG, BMP and WebP file below --images is searched; other files are counted and named.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tipr_jax import command_line
from tipr_jax.paths import local_path, no_such_path

EXAMPLE = (
    "python -m tipr_jax.gallery --model=runs/quickstart --images=photos/ "
    '--query="a man in a red coat"'
)


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.Parser(
        prog="python -m tipr_jax.gallery", description=__doc__, example=EXAMPLE
    )
    parser.add_argument("--model", required=True, help="run directory or model directory")
    parser.add_argument("--images", required=True, help="folder of photos, or one photo")
    parser.add_argument("--query", required=True, help="the sentence to search for")
    parser.add_argument(
        "--top", type=command_line.count, default=10, help="how many matches to show (default 10)"
    )
    parser.add_argument(
        "--language", default="", help="of the query, e.g. zh (default: the model's first)"
    )
    parser.add_argument(
        "--rerank",
        type=command_line.count,
        default=0,
        help="how many of the best matches a matching head orders anew (default: none)",
    )
    parser.add_argument(
        "--picture", default="search.png", help="where the picture goes (default: ./search.png)"
    )
    return parser


def search(options: argparse.Namespace) -> None:
    """Checks everything that is cheap to check, then embeds, ranks, prints and draws."""
    from tipr_jax.gallery.photos import find_photos, told
    from tipr_jax.gallery.retriever import Retriever, check_query
    from tipr_jax.report.sheets import RetrievalSheet, draw_sheet

    check_query(options.query)
    model, images = local_path(options.model, "--model"), local_path(options.images, "--images")
    picture = picture_path(options.picture)
    if not model.is_dir():
        raise FileNotFoundError(no_such_path(model, "run or model directory"))
    command_line.check_devices()
    photos = find_photos(images)
    retriever = Retriever.load(model, options.language)
    retriever.model.language_index(options.language)
    if options.rerank:
        retriever.model.check_can_match()
    for line in retriever.model.doubts(options.query, options.language):
        print(line)
    skipped = [*photos.skipped, *retriever.add(photos.paths)]
    for line in told(skipped):
        print(line)
    matches = retriever.search(
        options.query, options.top, language=options.language, rerank=options.rerank
    )
    number = len(retriever.paths)
    print(f'"{options.query}" among {number} photo{"s" if number != 1 else ""}:')
    for rank, match in enumerate(matches, 1):
        print(f"{rank:3}  {match.score:.3f}  {match.path}")
    sheet = RetrievalSheet(options.query, None, [(m.path, m.score, None) for m in matches])
    draw_sheet(sheet, picture, with_query=True)
    print(f"picture: {picture}")


def picture_path(given: str) -> Path:
    """The file to draw into, .png unless given otherwise; its directory is made.

    Raises:
      ValueError: matplotlib draws no such file.
      OSError: the directory cannot be made or written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = local_path(given, "--picture")
    path = path if path.suffix else path.with_suffix(".png")
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"--picture={given}: expected a name ending in .png, or {', '.join(known)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with open(path, "ab"):  # can it be written? Better asked before all photos are read
        pass
    if is_new:  # a search that fails leaves no empty picture
        path.unlink()
    return path


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(argv)
    command_line.setup_process()
    with command_line.mistakes_in_one_line():
        search(options)


if __name__ == "__main__":
    main(sys.argv[1:])
