"""Command line of the generator: `python -m data_pipelines.synth_pedes --help`."""

from __future__ import annotations

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse

from data_pipelines.synth_pedes.contact_sheet import write_contact_sheet
from data_pipelines.synth_pedes.festival import VOCABULARIES
from data_pipelines.synth_pedes.generate import generate
from data_pipelines.synth_pedes.layouts import GENERATED_LAYOUTS
from data_pipelines.synth_pedes.own_data import write_own_data
from data_pipelines.synth_pedes.scenes import write_scenes, write_sequence
from tipr_jax import command_line
from tipr_jax.languages import LANGUAGES, language_name

_DESCRIPTION = """\
Generates pedestrian images with captions in the directory layout of a real data set, so that
everything can be tried without a licence form. The same parameters give the same files; a second
run with the same parameters returns at once."""
_EXAMPLES = """\
examples:
  python -m data_pipelines.synth_pedes --root=data
  python -m data_pipelines.synth_pedes --root=data --layout=rstp_reid --train-ids=3701 --height=256
  python -m data_pipelines.synth_pedes --root=data --languages=en,zh,fr,de
  python -m data_pipelines.synth_pedes --scenes=scenes                 # to find people in
  python -m data_pipelines.synth_pedes --manifest=own --vocabulary=festival   # as own photos
  python -m data_pipelines.synth_pedes --contact-sheet=people.png      # look before you generate"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; exits with a message when it makes no sense."""
    parser = command_line.Parser(
        "python -m data_pipelines.synth_pedes", description=_DESCRIPTION, epilog=_EXAMPLES,
        example="python -m data_pipelines.synth_pedes --root=data",
    )  # fmt: skip
    add = parser.add_argument
    add("--root", metavar="DIR", help="where CUHK-PEDES/ (ICFG-PEDES/, RSTPReid/) is created")
    add(
        "--layout",
        default="cuhk_pedes",
        choices=tuple(GENERATED_LAYOUTS),
        help="default: %(default)s",
    )
    add("--train-ids", type=int, default=1000, help="people to train on (default: %(default)s)")
    add("--val-ids", type=int, default=50, help="default: %(default)s; icfg_pedes has no val split")
    add("--test-ids", type=int, default=100, help="people to search for (default: %(default)s)")
    add("--images-per-id", type=int, help="default: 4 (cuhk_pedes), 8 (icfg_pedes), 5 (rstp_reid)")
    add(
        "--height", type=int, default=192, help="mean image height in pixels (default: %(default)s)"
    )
    add(
        "--seed", type=int, default=0, help="other people, cameras and words (default: %(default)s)"
    )
    add(
        "--languages", type=_languages, default=(), metavar="en,zh,...",
        help=f"captions also in these languages, some of {','.join(LANGUAGES)}, in files "
        "{split}_reid_{language}.json; data that is already there gets them added",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="replace generated data with other parameters")
    add(
        "--scenes", metavar="DIR",
        help="write whole pictures of several people and a short video, with boxes.csv",
    )  # fmt: skip
    add(
        "--manifest", metavar="DIR",
        help="write photos/ and manifest.csv, as data of your own: 100 people, 3 photos each",
    )  # fmt: skip
    add(
        "--vocabulary", default="street", choices=tuple(VOCABULARIES),
        help="clothes of the people in --manifest; festival: garments, colours and words that no "
        "data set has (default: %(default)s)",
    )  # fmt: skip
    add("--contact-sheet", metavar="FILE.png", help="write a picture of some people and captions")
    args = parser.parse_args(argv)
    if not (args.root or args.contact_sheet or args.scenes or args.manifest):
        parser.error(
            "nothing to do; give --root=DIR, --manifest=DIR, --scenes=DIR or "
            "--contact-sheet=FILE.png"
        )
    return args


def _languages(given: str) -> list[str]:
    try:
        return [language_name(name) for name in given.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    command_line.tolerant_output()
    with command_line.mistakes_in_one_line():
        if args.contact_sheet:
            write_contact_sheet(args.contact_sheet, height=args.height, seed=args.seed)
        if args.scenes:
            print(f"pictures: {write_scenes(f'{args.scenes}/pictures', seed=args.seed)}")
            print(f"video: {write_sequence(f'{args.scenes}/video', seed=args.seed)}")
        if args.manifest:
            path = write_own_data(
                args.manifest, vocabulary=args.vocabulary, languages=args.languages,
                height=args.height, seed=args.seed,
            )  # fmt: skip
            print(f"{path} is ready")
        if args.root:
            directory = generate(
                args.root, args.layout, train_ids=args.train_ids, val_ids=args.val_ids,
                test_ids=args.test_ids, images_per_id=args.images_per_id, height=args.height,
                seed=args.seed, languages=args.languages, overwrite=args.overwrite,
            )  # fmt: skip
            print(f"{directory} is ready")


if __name__ == "__main__":
    main()
