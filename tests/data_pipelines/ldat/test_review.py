"""The sheet for a person, and the corrections that come back."""

import csv

import pytest

from data_pipelines.ldat import export, report, review, stages


@pytest.fixture
def work(new_work):
    work = new_work(**{"grammar.noise": 0.3})
    for stage in (stages.translate, stages.score, stages.rewrite):
        stage(work)
    return work


def rows_of(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def save(path, rows, delimiter=",", encoding="utf-8-sig"):
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_corrections_go_before_every_other_text(work, tmp_path, delimiter):
    sheet, page, number = review.write_sheet(work)
    rows = rows_of(sheet)
    assert number == len(rows) == 32
    noise = [float(row["noise"]) for row in rows]
    assert noise == sorted(noise, reverse=True) and noise[0] > 0.5
    assert page.read_text().count("<img") == 32 and rows[3]["translation"] in page.read_text()
    rows[0]["corrected"], rows[5]["corrected"] = " 改正，了;的 ", "另外"
    save(tmp_path / "back.csv", rows, delimiter)
    assert review.read_sheet(work, tmp_path / "back.csv") == 2
    finals = {work.review_key(f.caption): f for f in report.finals(work, 0.1)}
    assert finals[rows[0]["key"]].text == "改正，了;的"
    assert finals[rows[5]["key"]].status == "corrected"
    path = next(path for path in export.export(work) if path.name.startswith("test"))
    assert "改正，了;的" in path.read_text()


def test_a_sheet_read_twice_changes_nothing_and_a_later_one_counts(work, tmp_path):
    rows = rows_of(review.write_sheet(work)[0])
    for text, new in (("一", 1), ("一", 0), ("二", 1), ("", 0)):
        rows[0]["corrected"] = text
        save(tmp_path / "back.csv", rows)
        assert review.read_sheet(work, tmp_path / "back.csv") == new
    final = next(
        f for f in report.finals(work, 0.1) if work.review_key(f.caption) == rows[0]["key"]
    )
    assert final.text == "二"


def test_what_has_no_translation_can_be_filled_in(work, tmp_path):
    work.journal("translate").write_bytes(
        b"".join(work.journal("translate").read_bytes().splitlines(keepends=True)[:-1])
    )
    rows = rows_of(review.write_sheet(work)[0])
    missing = next(row for row in rows if row["status"] == "missing")
    assert missing["translation"] == missing["noise"] == ""
    with pytest.raises(ValueError, match="1 captions have no translation"):
        export.export(work)
    missing["corrected"] = "补上"
    save(tmp_path / "back.csv", rows)
    review.read_sheet(work, tmp_path / "back.csv")
    assert any(count["corrected"] == 1 for count in export.export(work).values())


def test_a_spreadsheet_is_given_no_formula(work):
    work.translator.translate = lambda captions: ["=HYPERLINK(1)" for _ in captions]
    work.journal("translate").unlink()
    stages.translate(work)
    stages.score(work)
    assert {row["translation"] for row in rows_of(review.write_sheet(work)[0])} == {
        "'=HYPERLINK(1)"
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "expected the columns key and corrected"),
        (b"a,b\n1,2\n", "expected the columns key and corrected, found 'a,b'"),
        (b"key,corrected\nabc,x\n", "line 2: its key is that of no caption of the test split"),
        ("key,corrected\nabc,红\n".encode("gbk"), "save it as CSV UTF-8"),
        (None, "no such file"),
    ],
)
def test_another_sheet_is_named(work, tmp_path, content, message):
    if content is not None:
        (tmp_path / "back.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        review.read_sheet(work, tmp_path / "back.csv")
    assert not work.journal("review").exists()


def test_a_split_that_the_job_lacks_is_named(work):
    work.config.review.split = "dev"
    with pytest.raises(ValueError, match="split=dev: the job has train, val, test"):
        review.write_sheet(work)
