"""The command line, and processes that are killed."""

import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest

from data_pipelines.ldat.export import export
from data_pipelines.ldat.stages import rewrite, score, translate

ROOT = pathlib.Path(__file__).resolve().parents[3]
# The process ends as by kill -9 at the given call of a function, counted over Python and C.
KILLED = """
import os, signal, sys
from data_pipelines.ldat import export, stages, report
from data_pipelines.ldat.work import Work
from configs import ldat
config = ldat.get_config()
config.data.root, config.translator, config.rewriter = sys.argv[1], "grammar", "keep"
config.grammar.noise, config.batch_size, config.theta = 0.3, 4, "0.0"
stage = {"translate": stages.translate, "score": stages.score, "rewrite": stages.rewrite,
         "export": export.export}[sys.argv[2]]
calls, last = 0, int(sys.argv[3])
def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(count)
stage(Work(config))
sys.setprofile(None)
print(calls)
"""


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "data_pipelines.ldat", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


def test_help_teaches_with_examples():
    done = command("--help")
    assert done.returncode in (0, 1) and "python -m data_pipelines.ldat run" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_stages_run_from_the_shell(root):
    fields = (f"--config.data.root={root}", "--config.translator=grammar", "--config.target=fr")
    done = command("run", *fields, "--config.rewriter=keep", "--config.grammar.noise=0.2")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "translate: 208 done" in done.stdout and "captions are noisy" in done.stdout
    assert (root / "CUHK-PEDES" / "translations" / "fr" / "report.html").is_file()
    assert (root / "CUHK-PEDES" / "test_reid_fr.json").is_file()
    sheet = root / "CUHK-PEDES" / "translations" / "fr" / "review_test.csv"
    fields = (*fields, "--config.rewriter=keep", "--config.grammar.noise=0.2")
    done = command("review", *fields)
    assert done.returncode == 0 and str(sheet) in done.stdout
    done = command("review", *fields, f"--config.review.read={sheet}")
    assert done.stdout.startswith("0 corrections")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "the first word is missing; expected one of translate, score"),
        (("score", "export"), "unexpected 'export'"),
        (("translat",), "the first word is translat; expected one of"),
        (("run", "--config.targt=zh"), "no field 'targt'"),
        (("run", "--config=none.py"), "none.py"),
        (("run", "--config.data.root=/nowhere"), "CUHK-PEDES not found"),
        (("export", "--config.translator=none"), "translator=none is unknown"),
        (("translate", "--engine=spark"), "--engine=spark: expected ray"),
        (("translate", "--config.translator=local"), "--config.local.folder=: expected the folder"),
    ],
)
def test_a_mistake_is_one_line(root, arguments, message):
    done = command(*arguments, TIPR_DATA=str(root))
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["translate", "score", "rewrite", "export"])
def test_a_kill_at_ten_random_moments_costs_nothing_and_changes_nothing(root, new_work, stage):
    """What is finished is kept, once, and the end is that of a quiet run."""
    fields = {"grammar.noise": 0.3, "batch_size": 4, "theta": "0.0"}
    stages = {"translate": translate, "score": score, "rewrite": rewrite, "export": export}
    for function in stages.values():
        function(new_work(**fields))
    folder, exported = root / "CUHK-PEDES" / "translations" / "zh", sorted_exports(root)
    journal = folder / f"{stage}.jsonl"
    made = [journal] if stage != "export" else [*exported, folder / "exported.json"]
    whole = {path: path.read_bytes() for path in [*made, *exported]}

    def start_again() -> None:
        for path in made:
            path.unlink(missing_ok=True)

    start_again()
    calls = int(killed(root, stage, -1) or 0)
    rng, sizes = random.Random(stage), []
    for _ in range(10):
        start_again()
        assert killed(root, stage, rng.randrange(1, calls)) is None
        if stage != "export" and journal.exists():
            found = journal.read_bytes()
            sizes.append(found.count(b"\n"))
            assert whole[journal].startswith(found[: found.rfind(b"\n") + 1])
        for name in list(stages)[list(stages).index(stage) :]:
            stages[name](new_work(**fields))
        assert {path: path.read_bytes() for path in whole} == whole
    assert stage == "export" or any(sizes)  # some moments were after the first batch
    assert not list(folder.glob("draft_*"))


def sorted_exports(root):
    return sorted(root.glob("CUHK-PEDES/*_reid_ch.json"))


def killed(root, stage: str, last: int) -> str | None:
    """Runs a stage up to a call of a function; what it printed, None if it was killed."""
    script = [sys.executable, "-c", KILLED, str(root), stage, str(last)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return None if done.returncode else done.stdout
