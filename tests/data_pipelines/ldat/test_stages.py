"""The stages on generated captions: resume, threshold, export, report."""

import json

import pytest

from data_pipelines import check
from data_pipelines.datasets.multilingual import file_name
from data_pipelines.ldat import export, outcome, report, stages
from data_pipelines.ldat.interfaces import Failure
from data_pipelines.synth_pedes.generate import generate
from tests.data_pipelines.ldat.conftest import generated_entries


def run(work):
    tallies = [stages.translate(work), stages.score(work), stages.rewrite(work)]
    return tallies, export.export(work)


def captions_of(path):
    return [caption for entry in json.loads(path.read_text()) for caption in entry["captions"]]


@pytest.mark.parametrize("target", ["zh", "fr", "de"])
def test_true_captions_come_out_as_the_generator_writes_them(root, new_work, target):
    tallies, counts = run(new_work(target=target))
    assert (tallies[0].done, tallies[1].done) == (208, 208)
    assert sum(sum(count.values()) for count in counts.values()) == 208
    for split in ("train", "val", "test"):
        written = json.loads((root / "CUHK-PEDES" / file_name(split, target)).read_text())
        assert written == generated_entries(split, target)


def test_the_project_s_own_check_passes_the_export(tmp_path, new_work):
    parameters = {"train_ids": 3, "val_ids": 1, "test_ids": 2, "height": 48, "progress": False}
    generate(tmp_path / "real", languages=("en",), workers=1, **parameters)
    work = new_work(**{"data.root": str(tmp_path / "real"), "grammar.noise": 0.3})
    run(work)
    found = check.check_dataset("cuhk_pedes", str(tmp_path / "real"), ("en", "zh"))
    assert found.ok, str(found)
    assert found.counts["train zh"] == found.counts["train en"]


def test_without_files_in_languages_the_official_file_is_translated(root, new_work, tmp_path):
    parameters = {"train_ids": 3, "val_ids": 1, "test_ids": 2, "height": 48, "progress": False}
    directory = generate(tmp_path / "real", workers=1, **parameters)
    work = new_work(**{"data.root": str(tmp_path / "real")})
    run(work)
    assert (directory / "train_reid_en.json").is_file()
    found = check.check_dataset("cuhk_pedes", str(tmp_path / "real"), ("en", "zh"))
    assert found.ok and found.counts["test zh"].captions == 16, str(found)
    run(new_work(**{"data.root": str(tmp_path / "real")}))  # now the English files are there


def test_a_second_run_asks_for_nothing_and_writes_the_same(new_work, root):
    work = new_work(**{"grammar.noise": 0.2})
    run(work)
    path = root / "CUHK-PEDES" / "train_reid_ch.json"
    before, journal = path.read_bytes(), work.journal("translate").read_bytes()
    again = new_work(**{"grammar.noise": 0.2})
    again.translator.translate = again.scorer.score = again.rewriter.rewrite = None
    tallies, _ = run(again)
    assert [t.done for t in tallies] == [0, 0, 0] and tallies[0].before == 208
    assert (path.read_bytes(), work.journal("translate").read_bytes()) == (before, journal)


def test_other_settings_and_languages_are_work_of_their_own(new_work):
    run(new_work())
    assert stages.translate(new_work(**{"grammar.seed": 5})).done == 208
    assert stages.translate(new_work(target="de")).done == 208
    assert stages.translate(new_work()).before == 208  # what was there before is still known


class Unreliable:
    """Fails, at the first calls, for captions with a given word."""

    settings = {"a": 1}

    def __init__(self, translator, bad_calls, word="backpack"):
        self.translator, self.bad_calls, self.word, self.asked = translator, bad_calls, word, []

    def translate(self, captions):
        self.asked += captions
        texts = self.translator.translate(captions)
        return [
            Failure("busy") if self.bad_calls > 0 and self.word in c.text else text
            for c, text in zip(captions, texts, strict=True)
        ]


def test_failures_are_recorded_apart_and_tried_again(new_work):
    work = new_work()
    backend = Unreliable(work.translator, bad_calls=1)
    work.translator = backend
    tally = stages.translate(work)
    assert tally.failed > 5 and tally.done + tally.failed == 208
    failures = work.journal("translate").with_suffix(".failures.jsonl")
    reasons = [json.loads(line) for line in failures.read_text().splitlines()]
    assert len(reasons) == tally.failed and {r["reason"] for r in reasons} == {"busy"}
    stages.score(work)
    assert report.write(work).failures["translate"] == tally.failed
    with pytest.raises(ValueError, match=rf"{tally.failed} captions have no translation"):
        export.export(work)
    assert not list(work.source.directory.glob("*_ch.json"))
    backend.bad_calls, backend.asked = 0, []
    again = stages.translate(work)
    assert (again.done, again.failed) == (tally.failed, 0) and len(backend.asked) == tally.failed
    stages.score(work)
    assert report.write(work).failures["translate"] == 0
    assert sum(export.export(work)[work.source.directory / "test_reid_ch.json"].values()) == 32


@pytest.mark.parametrize("answer", ["", "  ", Failure("no"), "红\ud800"])
def test_an_answer_without_text_is_no_translation(new_work, answer):
    work = new_work(splits="val")
    work.translator.translate = lambda captions: [answer] * len(captions)
    assert stages.translate(work).failed == 16
    assert work.journal("translate").read_bytes() == b""


@pytest.mark.parametrize("quality", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_quality_out_of_range_is_a_failure(new_work, quality):
    work = new_work(splits="val")
    stages.translate(work)
    work.scorer.score = lambda translations: [quality] * len(translations)
    assert stages.score(work).failed == 16


def test_the_threshold_is_the_rounded_mean_noise(new_work):
    work = new_work(splits="val")
    stages.translate(work)
    with pytest.raises(ValueError, match="no translation has a score"):
        outcome.threshold(work)
    work.scorer.score = lambda translations: [1 - 0.01 * i for i in range(len(translations))]
    stages.score(work)  # batches of 10: noise 0.00 .. 0.09 and 0.00 .. 0.05
    assert outcome.threshold(work) == round((0.45 + 0.15) / 16, 2) == 0.04
    for given, theta in ((0.15, 0.15), ("0.5", 0.5), (0, 0.0)):
        assert outcome.threshold(new_work(splits="val", theta=str(given))) == theta
    for given in ("1.5", "-1", "nan", "much"):
        with pytest.raises(ValueError, match=f"theta={given}; expected auto"):
            outcome.threshold(new_work(theta=given))


def test_the_lexical_scorer_finds_injected_noise(new_work):
    for target in ("zh", "fr", "de"):
        work = new_work(**{"target": target, "grammar.noise": 0.2})
        run(work)
        found = report.write(work).injected
        assert found and found["captions"] > 25
        assert found["recall"] >= 0.8 and found["precision"] >= 0.6, (target, found)


class Truthful:
    """Rewrites with the true captions; "" for some, the source for others."""

    settings = {"a": 1}

    def __init__(self, translator):
        self.truth = translator.truth

    def rewrite(self, translations):
        texts = [self.truth(t.caption) for t in translations]
        return [
            t.caption.text if i % 5 == 0 else x
            for i, (t, x) in enumerate(zip(translations, texts, strict=True))
        ]


def test_noisy_captions_are_rewritten_and_the_others_left_alone(root, new_work):
    work = new_work(**{"grammar.noise": 0.3})
    work.rewriter = Truthful(work.translator)
    _, counts = run(work)
    total = sum(counts.values(), start=type(next(iter(counts.values())))())
    assert total["rewritten"] > 30 and total["kept"] > 5
    finals = list(report.finals(work, outcome.threshold(work)))
    for final in finals:
        if final.status == "rewritten":
            assert final.text == work.translator.truth(final.caption) != final.first
        else:  # a rewriter that gives the source back changes nothing
            assert final.text == final.first
    assert [f.text for f in finals if f.caption.split == "train"] == captions_of(
        root / "CUHK-PEDES" / "train_reid_ch.json"
    )


def test_an_export_replaces_its_own_files_and_no_others(root, new_work):
    path = root / "CUHK-PEDES" / "test_reid_ch.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"test_reid_ch\.json exists and was not written by this"):
        run(new_work())
    assert not (root / "CUHK-PEDES" / "train_reid_ch.json").exists()
    path.unlink()
    run(new_work())
    run(new_work(**{"grammar.noise": 0.5}))
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match="was changed since"):
        export.export(new_work())
    export.export(new_work(output=str(root)))
    assert (root / "test_reid_ch.json").is_file()


def test_empty_captions_stay_empty_and_equal_ones_are_asked_once(root, new_work):
    path = root / "CUHK-PEDES" / "val_reid_en.json"
    entries = json.loads(path.read_text())
    entries[0]["captions"] = ["", entries[0]["captions"][0], entries[0]["captions"][0]]
    path.write_text(json.dumps(entries))
    work = new_work(splits="val")
    tallies, _ = run(work)
    assert tallies[0].done == 15
    written = json.loads((root / "CUHK-PEDES" / "val_reid_ch.json").read_text())
    first = generated_entries("val", "zh")[0]["captions"][0]
    assert written[0]["captions"] == ["", first, first]


def test_the_report_counts_and_escapes(root, new_work):
    path = root / "CUHK-PEDES" / "val_reid_en.json"
    entries = json.loads(path.read_text())
    entries[0]["captions"] = ["<script>alert(1)</script> a red coat", "a man"]
    path.write_text(json.dumps(entries))
    work = new_work(splits="val")
    work.translator.translate = lambda captions: [f"<b>红色大衣{c.text[:3]}" for c in captions]
    run(work)
    found = report.write(work)
    read = json.loads((work.folder / "ldat_report.json").read_text())
    assert read["captions"] == 16 == sum(read["histogram"]) == read["clean"] + read["noisy"]
    assert read["theta"] == found.theta and len(read["histogram"]) == 20
    page = (work.folder / "report.html").read_text()
    assert "<script" not in page and "&lt;b&gt;红色" in page and "<svg" in page
    assert "http" not in page


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"target": "en"}, "both en"),
        ({"target": "xx"}, "'xx' is unknown"),
        ({"splits": "train,dev"}, "splits=train,dev; use some of"),
        ({"data.name": "mars"}, "'mars' is unknown"),
        ({"data.root": "gs://a/b"}, "an address"),
        ({"workdir": "gs://a/b"}, "an address"),
        (
            {"translator": "google"},
            "translator=google is unknown; use one of openai, local, file, grammar",
        ),
        ({"scorer": "comet"}, "scorer=comet is unknown"),
        ({"translator": "openai"}, "openai.model is empty"),
        ({"translator": "openai", "openai.concurrency": 0}, "concurrency=0"),
        ({"translator": "file"}, "expected a file of JSON lines"),
        ({"translator": "file", "file.path": "/none"}, "expected a file of JSON lines"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_mistakes_are_named(new_work, fields, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stages.score(work) if (
            work := new_work(**fields)
        ).config.scorer == "comet" else stages.translate(work)


def test_a_data_set_that_was_not_generated_has_no_known_translations(root, new_work):
    (root / "CUHK-PEDES" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="it was not generated"):
        stages.translate(new_work())


def test_a_bad_entry_of_the_source_is_named(root, new_work):
    (root / "CUHK-PEDES" / "val_reid_en.json").write_text('[{"file_path": "a.png", "id": 1}]')
    with pytest.raises(ValueError, match=r"val_reid_en\.json: entry 0: has no 'captions'"):
        stages.translate(new_work())


def test_ready_translations_are_taken_from_a_file(root, new_work, tmp_path):
    rows = [
        {"image": entry["file_path"], "source": here, "translation": there}
        for entry, true in zip(
            generated_entries("val", "en"), generated_entries("val", "zh"), strict=True
        )
        for here, there in zip(entry["captions"], true["captions"], strict=True)
    ]
    general = [{"source": row["source"], "translation": "另一句"} for row in rows[:2]]
    empty = {**rows[-1], "translation": " "}
    path = tmp_path / "ready.jsonl"
    lines = [json.dumps(row) for row in [*rows[1:], *general, empty]]
    path.write_text("\n".join(lines))  # the last line without a line feed
    fields = {"translator": "file", "file.path": str(path), "splits": "val"}
    work = new_work(**fields)
    assert stages.translate(work).done == 15
    finals = [f.text for f in report.finals(work, 1.0)]
    assert finals == ["另一句", *(row["translation"] for row in rows[1:-1]), ""]
    path.write_text("\n".join([*lines[:-1], json.dumps(rows[-1])]))
    assert stages.translate(new_work(**fields)).failed == 0
    path.write_text('{"source": "a", "translation": 3}\n{}\n')
    with pytest.raises(ValueError, match=r"ready\.jsonl: line 1"):
        stages.translate(new_work(**fields))
