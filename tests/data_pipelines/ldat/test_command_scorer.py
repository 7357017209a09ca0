"""A scorer in another process that dies, hangs, or says what was not agreed."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from data_pipelines.ldat import stages
from data_pipelines.ldat.command_scorer import CommandScorer
from data_pipelines.ldat.interfaces import Caption, Failure, Translation

ROOT = pathlib.Path(__file__).resolve().parents[3]
# The score of a pair is its translation, as a number; a pair is answered by what follows.
START = """
import json, os, sys, time
for line in sys.stdin:
    mt = json.loads(line)["mt"] if line.strip() else ""
"""
PLAIN = START + "    print(mt, flush=True)\n"


def pairs(*texts):
    return [Translation(Caption("train", "a.jpg", 1, f"source {t}"), t) for t in texts]


def scorer(script, timeout=60.0):
    return CommandScorer([sys.executable, "-c", script], timeout)


def running(pid):
    status = pathlib.Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_until_ended(pid):
    for _ in range(6000):  # a minute: the system may be busy, and ends it sooner or later
        if not running(pid):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} goes on")


def test_one_process_answers_all_batches_in_order():
    found = scorer(START + "    print(os.getpid() if mt else '', flush=True)\n")
    first, second = found.score(pairs("a", "b")), found.score(pairs("c"))
    assert first == [first[0]] * 2 and second == [first[0]]
    assert scorer(PLAIN).score(pairs("0.25", "1", "0")) == [0.25, 1.0, 0.0]


def test_the_command_gets_source_and_translation_as_json(tmp_path):
    seen = tmp_path / "seen"
    write = "    seen.write(line); seen.flush()\n    mt ="
    script = f"seen = open({str(seen)!r}, 'w')\n" + PLAIN.replace("    mt =", write)
    assert scorer(script).score(pairs("0.5")) == [0.5]
    assert seen.read_text() == '{"src": "source 0.5", "mt": "0.5"}\n\n'


def test_a_command_may_wait_for_the_whole_batch():
    script = (
        "all = []\n"
        + START
        + ("    all.append(mt)\n    if not mt: print('\\n'.join(all), flush=True); all = []\n")
    )
    found = scorer(script)
    assert found.score(pairs("0.1", "0.2")) == [0.1, 0.2]
    assert found.score(pairs("0.3")) == [0.3]


def test_a_batch_larger_than_a_pipe_does_not_stop_anybody():
    texts = [f"0.{number:05}{'0' * 200}1" for number in range(5000)]
    assert scorer(PLAIN).score(pairs(*texts)) == [float(text) for text in texts]


def test_what_is_no_number_is_a_failure_of_its_pair():
    found = scorer(PLAIN).score(pairs("0.5", "good", "0.7"))
    assert found == [0.5, Failure("the command answered 'good', which is no number"), 0.7]


@pytest.mark.parametrize("line", ["nan", "inf", "1.5", "-0.1", "good"])
def test_what_is_no_quality_is_never_written_as_one(new_work, line):
    work = new_work(splits="val")
    stages.translate(work)
    work.scorer = scorer(START + f"    print({line!r} if mt else '', flush=True)\n")
    tally = stages.score(work)
    assert (tally.done, tally.failed) == (0, 16)
    assert work.journal("score").read_bytes() == b""


@pytest.mark.parametrize(
    "answer, reason",
    [
        ("    if mt != 'x': print(mt, flush=True)\n", "gave 2 lines for 3 pairs"),
        ("    print(mt); print(mt, flush=True)\n", "gave more than 3 lines for 3 pairs"),
        (
            "    print('0.1\\n' * 9 if mt else '', flush=True)\n",
            "gave 1 lines for 3 pairs|more than",
        ),
        ("    sys.stdout.write('9' * 200_000); sys.stdout.flush()\n", "a line without an end"),
    ],
    ids=["too few", "too many", "far too many", "one endless line"],
)
def test_another_number_of_lines_gives_no_score(answer, reason):
    found = scorer(START + answer).score(pairs("0.1", "x", "0.3"))
    assert len(found) == 3 and len(set(found)) == 1
    assert isinstance(found[0], Failure)
    assert any(part in found[0].reason for part in reason.split("|")), found[0]


def test_after_a_wrong_number_of_lines_the_next_batch_is_asked_of_a_new_process():
    found = scorer(START + "    if mt != 'x': print(mt, flush=True)\n")
    assert isinstance(found.score(pairs("0.1", "x"))[0], Failure)
    assert found.score(pairs("0.2", "0.3")) == [0.2, 0.3]


def test_a_died_process_is_started_again_once(tmp_path):
    mark = tmp_path / "died"
    once = START + (
        f"    if mt == 'x' and not os.path.exists({str(mark)!r}):\n"
        f"        open({str(mark)!r}, 'w').close(); os.kill(os.getpid(), 9)\n"
        "    print(mt and (mt if mt != 'x' else 0.5), flush=True)\n"
    )
    assert scorer(once).score(pairs("0.1", "x", "0.3")) == [0.1, 0.5, 0.3]
    assert mark.exists()
    starts = tmp_path / "starts"
    always = (
        f"open({str(starts)!r}, 'a').write('x')\n"
        + START
        + ("    if mt == 'x': sys.exit('no memory')\n    print(mt, flush=True)\n")
    )
    found = scorer(always)
    answers = found.score(pairs("0.1", "x"))
    expected = "the command ended twice: exit status 1, no memory"
    assert answers == [Failure(expected)] * 2
    assert starts.read_text() == "xx"
    assert found.score(pairs("0.2")) == [0.2] and starts.read_text() == "xxx"


def test_a_command_that_dies_between_two_batches_is_started_again():
    found = scorer(START + "    print(os.getpid() if mt else '', flush=True)\n")
    (pid,) = found.score(pairs("a"))
    os.kill(int(pid), 9)
    wait_until_ended(int(pid))
    (other,) = found.score(pairs("a"))
    assert isinstance(other, float) and other != pid


def test_a_hanging_command_is_ended_with_all_that_it_started():
    script = (
        "import subprocess\n" + START + "    if mt == 'x':\n"
        "        time.sleep(600)\n"
        "    if mt:\n"
        "        child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "        print(os.getpid() if mt == 'own' else child.pid)\n"
        "    else: print(flush=True)\n"
    )
    found = scorer(script)
    pids = found.score(pairs("own", "child"))
    found._timeout = 0.1
    assert found.score(pairs("x", "0.2")) == [Failure("the command did not answer in 0.1 s")] * 2
    for pid in pids:
        wait_until_ended(int(pid))


def test_a_command_that_never_answers_ends_the_run_in_one_line(new_work):
    work = new_work(batch_size=60)
    stages.translate(work)
    work.scorer = scorer("import sys; sys.exit('ModuleNotFoundError: No module named comet')")
    with pytest.raises(
        ValueError, match="the last 120 captions failed.*No module named comet"
    ) as e:
        stages.score(work)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"command.run": ""}, "--config.command.run is empty"),
        ({"command.run": "/nowhere/python score.py"}, "cannot be started .*No such file"),
        ({"command.run": "python", "command.timeout": 0.0}, "command.timeout=0"),
    ],
)
def test_mistakes_are_named(new_work, fields, message):
    work = new_work(scorer="command", **fields)
    stages.translate(work)
    with pytest.raises(ValueError, match=message):
        stages.score(work)


def test_a_run_ends_its_command_and_says_nothing_about_it(root, tmp_path):
    pid, script = tmp_path / "pid", tmp_path / "score.py"
    # It ignores the end of its input.
    script.write_text(
        f"open({str(pid)!r}, 'w').write(str(__import__('os').getpid()))\n"
        + PLAIN.replace("print(mt,", "print(mt and 0.5,")
        + "time.sleep(600)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "data_pipelines.ldat", "run", f"--config.data.root={root}",
         "--config.translator=grammar", "--config.rewriter=keep", "--config.scorer=command",
         f"--config.command.run={sys.executable} {script}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and "score: 208 done" in done.stdout
    wait_until_ended(int(pid.read_text()))


def test_the_script_for_comet_speaks_as_agreed(tmp_path, monkeypatch):
    """With a stand-in for COMET, which prints and leaves 0..1 as the real one does."""
    pytest.importorskip("torch")
    (tmp_path / "comet.py").write_text(
        "import types\n"
        "def download_model(name):\n    print('fetching', name)\n    return 'place'\n"
        "class Model:\n"
        "    def predict(self, pairs, batch_size, gpus, progress_bar):\n"
        "        print('predicting')\n"
        "        scores = [float(p['mt']) for p in pairs if p['src']]\n"
        "        return types.SimpleNamespace(scores=scores)\n"
        "def load_from_checkpoint(path):\n    assert path == 'place'\n    return Model()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = ROOT / "scripts" / "examples" / "comet_scores.py"
    found = CommandScorer([sys.executable, str(script)], 120.0)
    assert found.score(pairs("0.25", "1.01", "-0.01")) == [0.25, 1.0, 0.0]
    assert found.score(pairs("0.75")) == [0.75]
