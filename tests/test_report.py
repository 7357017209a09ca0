"""report.html: complete, escaped, offline, and drawn from whatever a run left behind."""

import html.parser
import json

import numpy as np
import pytest
from PIL import Image

from tipr_jax.report import RetrievalSheet, write_report
from tipr_jax.report.sheets import draw_sheet

METRICS = {"R1": 48.25, "R5": 70.0, "R10": 80.0, "mAP": 44.0, "mINP": 30.5}


class Page(html.parser.HTMLParser):
    """Text, tags and picture sources of a page."""

    def __init__(self, path):
        super().__init__()
        self.text, self.images, self.tags = "", [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    lines = [{"step": s, "time": 1.0, "train/sdm_loss": 5 / (s + 1), "lr": 0.1} for s in range(5)]
    lines.append({"step": 4, "time": 1.0, "val/R1": 40.0, "val/mAP": None})
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "tra'
    (tmp_path / "metrics.jsonl").write_text(text)
    blocks = {
        "untrained": {"t2i": {"R1": 1.25}, "step": 0},
        "best on val": {"t2i": METRICS, "i2t": METRICS | {"R1": 51.75}, "step": 4},
        "best on test": {"t2i": METRICS, "i2t": METRICS | {"R1": 51.75}, "step": 4},
        "last epoch": {"t2i": METRICS | {"R1": 47.5}, "t2i_rerank": {"R1": 53.5}, "step": 5},
    }
    blocks = {name: block | {"split": "test"} for name, block in blocks.items()}
    results = blocks["best on val"] | {"selected_on": "val", "others": blocks, "gallery": "unique"}
    (tmp_path / "results.json").write_text(json.dumps(results))
    config = {"optim": {"lr": 1e-3}, "note": "<img src=x>"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    Image.fromarray(np.full((90, 30, 3), 255, np.uint8)).save(tmp_path / "person.png")
    return tmp_path


def sheet(run, query="a man in a blue coat", num=10):
    image = str(run / "person.png")
    return RetrievalSheet(query, image, [(image, 0.9 - i / 20, i == 2) for i in range(num)])


def test_complete_report(run):
    sheets = {
        "Best queries": [sheet(run)],
        "Worst <queries>": [sheet(run, "<script>x</script> $a$")],
    }
    path = write_report(run, title="IRRA & co", sheets=sheets)
    page = Page(path)
    assert path == run / "report.html"
    for text in ("selected on val: step 4", "untrained", "1.25", "last epoch", "47.50", "53.50"):
        assert text in page.text
    assert page.text.count("best on val, best on test") == 1
    assert page.text.count("48.25") == page.text.count("51.75") == 1  # one row, both directions
    for text in ("IRRA & co", "Worst <queries>", "“<script>x</script> $a$”", "<img src=x>"):
        assert text in page.text  # as text: escaped
    assert "script" not in page.tags
    assert "optim.lr" in page.text and "first right image at rank 3" in page.text
    names = ["losses", "metrics", "others", "sheet_0_0", "sheet_1_0"]
    assert page.images == [f"report/{name}.png" for name in names]
    for name in page.images:
        assert Image.open(run / name).size[0] > 300
    assert "http" not in path.read_text("utf-8")
    assert not list(run.glob("*.tmp"))


def test_earlier_sheets_are_replaced_and_other_files_kept(run):
    write_report(run, sheets={"Queries": [sheet(run), sheet(run)]})
    (run / "report" / "mine.txt").write_text("keep")
    write_report(run, sheets={"Queries": [sheet(run)]})
    assert [p.name for p in run.glob("report/sheet*")] == ["sheet_0_0.png"]
    assert (run / "report" / "mine.txt").exists()


def test_empty_run(tmp_path):
    page = Page(write_report(tmp_path))
    assert page.images == [] and "Retrieval quality" not in page.text


def pixels(path, colour):
    image = np.asarray(Image.open(path).convert("RGB"), np.int32)
    return int((np.abs(image - colour).max(-1) < 8).sum())


def test_frames_tell_right_from_wrong(run):
    green, red = (0x1A, 0x98, 0x50), (0xD7, 0x30, 0x27)
    draw_sheet(sheet(run), run / "mixed.png")
    draw_sheet(sheet(run, num=2), run / "wrong.png")
    assert pixels(run / "mixed.png", green) > 500 and pixels(run / "mixed.png", red) > 500
    assert pixels(run / "wrong.png", green) == 0 and pixels(run / "wrong.png", red) > 500


@pytest.mark.filterwarnings("error")  # matplotlib would warn of characters that it cannot draw
def test_unreadable_images_and_other_scripts(run):
    (run / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ranked = [(str(run / "broken.png"), 0.5, True), (str(run / "absent.png"), 0.4, False)]
    query = "穿红色外套的女人"
    path = write_report(run, sheets={"Queries": [RetrievalSheet(query, "nowhere.jpg", ranked)]})
    assert Page(path).text.count(query) == 1
    assert pixels(run / "report/sheet_0_0.png", (0xDD, 0xDD, 0xDD)) > 5000


def test_errors_say_what_to_do(run):
    with pytest.raises(FileNotFoundError, match="fix --workdir"):
        write_report(run / "absent")
    (run / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match="results.json holds a list"):
        write_report(run)
    (run / "results.json").write_text("{")
    with pytest.raises(ValueError, match="results.json is not valid JSON"):
        write_report(run)
    assert not (run / "report.html").exists()
