"""Translates the captions of a data set: python -m data_pipelines.ldat STAGE --config.field=value.

Stages, each of which continues where it stopped:
  translate   source captions into the target language
  score       how good each translation is
  rewrite     what is noisier than the threshold once more, with the image
  export      {split}_reid_{language}.json beside the source's files; then check them with
              python -m data_pipelines.check --languages=en,zh
  run         all of the above
  review      a sheet of a split for a person to correct; --config.review.read=SHEET takes it back,
              and the next export has it

Examples:
  python -m data_pipelines.ldat run --config.data.root=/data --config.target=zh \\
      --config.openai.base_url=http://127.0.0.1:8000/v1 --config.openai.model=Qwen3-VL
  python -m data_pipelines.ldat run --config.data.root=/data --config.target=zh \\
      --config.translator=file --config.file.path=ready.jsonl --config.rewriter=keep
  python -m data_pipelines.ldat run --config.data.root=/data --config.target=zh \\
      --config.translator=local --config.local.folder=opus-mt-en-zh --config.scorer=command \\
      --config.command.run="comet/bin/python scripts/examples/comet_scores.py"
  python -m data_pipelines.ldat review --config.data.root=/data --config.target=zh
  python -m data_pipelines.ldat run --config.data.root=data --config.target=de \\
      --config.translator=grammar --config.grammar.noise=0.2 --config.rewriter=keep

--engine=ray asks the backends in the workers of Ray Data, on this machine or on the cluster that
$RAY_ADDRESS names, with the same result.

All fields stand in configs/ldat.py, which is read unless another --config=FILE is given; give every
stage of a job the same ones, or keep them in a file of your own.
--verbosity=1 shows the traceback of an error.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import logging
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from tipr_jax import command_line

STAGES = ("translate", "score", "rewrite", "export", "run", "review")
_EXAMPLE = f"python -m {__package__} run --config.data.root=/data --config.target=zh"

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; default configs/ldat.py", lock_config=True
)
_ENGINE = flags.DEFINE_string("engine", "", "ray, or nothing to work in this process alone")


def parse(argv: list[str]) -> list[str]:
    """A `flags_parser` for `app.run`; returns [program, stage]."""
    stage, options = argv[1:2], argv[2:]
    if not stage or stage[0].startswith("-"):
        stage, options = [], argv[1:]
    if not any(option.split("=")[0] in command_line.CONFIG_OPTIONS for option in options):
        options = ["--config=configs/ldat.py", *options]
    rest = command_line.parse([argv[0], *options])  # --help ends here
    if not stage or stage[0] not in STAGES:
        raise SystemExit(
            f"error: the first word is {(stage or ['missing'])[0]}; expected one of "
            f"{', '.join(STAGES)}, for example: {_EXAMPLE}"
        )
    return [*rest, *stage]


def main(argv: list[str]) -> None:
    command_line.tolerant_output()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    with command_line.mistakes_in_one_line(traceback=flags.FLAGS.verbosity > 0):
        run(_CONFIG.value, argv[1], _ENGINE.value)


def run(config: Any, stage: str, engine: str = "") -> None:
    """Runs a stage and prints a line about it. Raises ValueError or OSError in one line."""
    from data_pipelines.ldat import report, stages
    from data_pipelines.ldat.work import Work

    work = Work(config, engine)
    if stage == "review":
        review(work)
        return
    asking = {"translate": stages.translate, "score": stages.score, "rewrite": stages.rewrite}
    for name in (*asking, "export") if stage == "run" else (stage,):
        if name == "export":
            export(work)
        else:
            print(asking[name](work))
    if stage != "translate":
        found = report.write(work)
        noisy = f"{found.noisy} of {found.captions} captions are noisy (above {found.theta:.2f})"
        print(f"{noisy}; {work.folder / 'report.html'}")


def export(work: Any) -> None:
    from data_pipelines.ldat import export as files

    for path, count in files.export(work).items():
        print(f"{path}: " + ", ".join(f"{number} {status}" for status, number in count.items()))


def review(work: Any) -> None:
    from data_pipelines.ldat import review as sheets
    from tipr_jax.paths import local_path

    if given := work.config.review.read:
        number = sheets.read_sheet(work, local_path(given, "--config.review.read"))
        print(f"{number} corrections taken over; export writes them")
        return
    sheet, page, rows = sheets.write_sheet(work)
    print(f"{rows} captions: {sheet}, to be corrected, and {page}, to look at")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
