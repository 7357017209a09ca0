"""Search photos from the command line.

  python -m tipr_jax.gallery --model=runs/quickstart --images=photos/ --query="a man in a red coat"

Prints the ranking and writes a picture of it.
"""

import sys

from absl import app, flags

from tipr_jax import command_line

_MODEL = flags.DEFINE_string("model", None, "Run directory or model directory", required=True)
_IMAGES = flags.DEFINE_string(
    "images", None, "Folder of photos, searched recursively", required=True
)
_QUERY = flags.DEFINE_string("query", None, "The sentence to search for", required=True)
_TOP = flags.DEFINE_integer("top", 10, "How many matches to show", lower_bound=1)
_LANGUAGE = flags.DEFINE_string("language", "", "Of the query, e.g. zh (default the model's first)")
_RERANK = flags.DEFINE_integer(
    "rerank", 0, "How many of the best matches a matching head orders anew", lower_bound=0
)
_PICTURE = flags.DEFINE_string("picture", None, "Where the picture goes (default MODEL/search.png)")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(
            f'unexpected arguments {argv[1:]}; put the sentence into --query="..."'
        )
    command_line.setup_process()
    try:
        search()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def search() -> None:
    from tipr_jax.gallery.retriever import Retriever, find_images
    from tipr_jax.paths import local_path
    from tipr_jax.report.sheets import RetrievalSheet, draw_sheet

    model, images = local_path(_MODEL.value, "--model"), local_path(_IMAGES.value, "--images")
    picture = local_path(_PICTURE.value or model / "search.png", "--picture")
    retriever = Retriever.load(model, _LANGUAGE.value)
    retriever.model.language_index(_LANGUAGE.value)  # before all photos are read
    if _RERANK.value:
        retriever.model.check_can_match()
    retriever.add(find_images(images))
    matches = retriever.search(
        _QUERY.value, _TOP.value, language=_LANGUAGE.value, rerank=_RERANK.value
    )
    print(f'"{_QUERY.value}" among {len(retriever.paths)} photos:')
    for rank, match in enumerate(matches, 1):
        print(f"{rank:3}  {match.score:.3f}  {match.path}")
    draw_sheet(
        RetrievalSheet(_QUERY.value, None, [(m.path, m.score, None) for m in matches]),
        picture,
        with_query=True,
    )
    print(f"picture: {picture}")


if __name__ == "__main__":
    app.run(main)
