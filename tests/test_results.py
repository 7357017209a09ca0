"""Which evaluation is the best, what results.json holds, and the table of text."""

import json

import pytest
from ml_collections import ConfigDict

from tipr_jax import result_table, results
from tipr_jax.results import Criterion, Evaluation, select


def directions(value: float, reranked: bool = True) -> dict:
    """All metrics of a split; in i2t one more than in t2i, re-ranked two more."""
    names = ("t2i", "i2t", "t2i_rerank")[: 3 if reranked else 2]
    return {
        name: dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), value + i)
        for i, name in enumerate(names)
    }


def evaluation(step: int, rerank_k: int = 0, reranked: bool = True, **values: float) -> Evaluation:
    scores = {split: directions(value, reranked) for split, value in values.items()}
    return Evaluation(step, scores, rerank_k)


def config(select_by: str = "R1") -> ConfigDict:
    return ConfigDict(
        {
            "eval": {"select_by": select_by, "select_on": "test", "gallery": "unique"},
            "data": {"languages": (), "source": "en", "target": "zh"},
            "init_from": "",
        }
    )


def test_the_earliest_of_equals_is_the_best_and_missing_splits_do_not_count():
    evaluations = [
        evaluation(10, reranked=False, test=50.0),
        evaluation(20, reranked=False, test=50.0, val=1.0),
        evaluation(30, reranked=False, test=4.0),
    ]
    assert select(evaluations, Criterion("test", "R1")).step == 10
    assert select(evaluations, Criterion("test", "R1", ties="later")).step == 20
    assert select(evaluations, Criterion("val", "R1")).step == 20
    assert select(evaluations, Criterion("val_zh", "R1")) is None


def test_the_mean_of_several_metrics_selects():
    first, second = evaluation(10, test=50.0), evaluation(20, test=49.0)
    second.scores["test"]["t2i_rerank"]["mAP"] = 60.0
    assert select([first, second], Criterion("test", "R1")).step == 10
    assert select([first, second], Criterion("test", "R1+mAP")).step == 20
    with pytest.raises(ValueError, match="select_by is 'R2', expected metrics joined by"):
        select([first], Criterion("test", "R2"))


@pytest.mark.parametrize(
    "candidates, expected",
    [((32, 32), 20), ((32, 64), 10), ((0, 32), 20), ((0, 0), 20)],
    ids=["same", "another number", "old run without the number", "old runs"],
)
def test_reranked_scores_are_compared_with_one_number_of_candidates(candidates, expected):
    """By cosine step 10 is the best, re-ranked step 20."""
    first, second = (evaluation(s, k, test=50.0) for s, k in zip((10, 20), candidates, strict=True))
    second.scores["test"]["t2i"]["R1"] = 40.0
    second.scores["test"]["t2i_rerank"]["R1"] = 90.0
    assert select([first, second], Criterion("test", "R1")).step == expected
    by_cosine = evaluation(5, reranked=False, test=1.0)
    assert select([first, second, by_cosine], Criterion("test", "R1")).step == 10


def test_rows_of_metrics_jsonl_keep_languages_directions_and_candidates(tmp_path):
    measured = evaluation(5, 32, test=3, test_zh=4)
    row = {"step": 5} | results.evaluation_row(measured.scores, 32)
    plain = {"step": 4} | results.evaluation_row({"test": directions(1, False)}, 32)
    lines = [{"step": 1, "loss": 0.5}, plain, row | {"eval/test/t2i/R1": 99.0}, row]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "metrics.jsonl").write_text(text + '\n{"step": 9, "eval/te')  # killed while writing
    assert results.read_evaluations(tmp_path) == [evaluation(4, reranked=False, test=1), measured]
    assert results.read_evaluations(tmp_path / "absent") == []


def test_results_per_language():
    """English is best at step 20 by the re-ranked R1, Chinese at step 10."""
    evaluations = [
        evaluation(0, test=1, test_zh=1),
        evaluation(10, test=50, test_zh=48),
        evaluation(20, test=60, test_zh=40),
        evaluation(30, test=55, test_zh=45),
    ]
    evaluations[1].scores["test"]["t2i"]["R1"] = 99.0  # the cosine ranking does not count
    summary = results.summarise(evaluations, config(), "test")
    assert summary["step"] == 20 and summary["t2i_rerank"]["R1"] == 62
    assert steps_of_languages(summary) == {
        "en": {"best": ("test", 20), "last epoch": ("test", 30)},
        "zh": {"best": ("test_zh", 10), "last epoch": ("test_zh", 30)},
    }
    assert list(summary["others"]) == ["untrained", "best on test", "last epoch"]
    lines = table_lines(summary)
    assert {"en best", "en last epoch", "zh best", "zh last epoch"} < set(lines)
    assert lines["zh best"].split()[-10:] == ["48.00"] * 5 + ["50.00"] * 5
    assert "text to image, re-ranked" in result_table.table(summary)


def steps_of_languages(summary: dict) -> dict:
    return {
        language: {name: (block["split"], block["step"]) for name, block in blocks.items()}
        for language, blocks in summary["languages"].items()
    }


def table_lines(summary: dict) -> dict[str, str]:
    lines = result_table.table(summary).splitlines()
    return {line.split("(")[0].strip(): line for line in lines if "(step" in line}


def test_languages_are_selected_on_the_split_that_is_asked_for():
    """And by cosine, as one of the evaluations was not re-ranked."""
    first = evaluation(10, val=9, val_zh=5, test=50, test_zh=60)
    second = evaluation(20, val=8, val_zh=6, test=70, test_zh=40)
    del second.scores["val"]["t2i_rerank"]
    summary = results.summarise([first, second], config(), "val")
    assert [summary["languages"][name]["best"]["step"] for name in ("en", "zh")] == [10, 20]
    assert summary["languages"]["zh"]["best"]["t2i"]["R1"] == 40


def test_a_translated_split_may_select():
    evaluations = [
        evaluation(0, test=0, test_zh=0),
        evaluation(10, test=50, test_zh=60),
        evaluation(20, test=70, test_zh=40),
    ]
    summary = results.summarise(evaluations, config(), "test_zh")
    assert summary["step"] == 10 and summary["split"] == "test"
    assert steps_of_languages(summary)["en"]["best"] == ("test", 20)
    assert summary["others"]["best on test_zh"]["step"] == 10
    assert summary["others"]["best on test"]["step"] == 20


def test_only_kept_steps_are_selected_and_what_others_would_be_is_still_told():
    evaluations = [
        evaluation(0, val=0, test=0),
        evaluation(10, val=9, test=60),
        evaluation(20, val=5, test=50),
        evaluation(30, val=6, test=40),
    ]
    summary = results.summarise(evaluations, config(), "test", kept=[20, 30])
    assert summary["step"] == summary["others"]["best on test"]["step"] == 20
    assert summary["others"]["best on val"]["step"] == 10


def test_one_row_per_set_of_weights():
    """The weights before the warm start and those after it have no step in common."""
    evaluations = [
        evaluation(0, val=1, test=2),
        evaluation(10, val=9, test=60),
        evaluation(20, val=5, test=50),
    ]
    started = config()
    started.init_from = "warm_start"
    summary = results.summarise(evaluations, started, "test", evaluation(0, test=1))
    assert [(row.name, row.step) for row in result_table.rows(summary)] == [
        ("untrained", 0),
        ("start", 0),
        ("best on val, best on test", 10),
        ("last epoch", 20),
    ]
    text = result_table.table(summary)
    assert text.count("best on val, best on test (step 10)") == 2  # by cosine, and re-ranked
    assert "selected on test" in text
    (width,) = {len(line) for line in text.splitlines() if "(step" in line}
    assert width > 100


def test_results_of_one_evaluation_without_reranking():
    given = evaluation(7, reranked=False, test=1, test_zh=2)
    summary = results.summarise([given], config(), "given")
    assert [block["last epoch"]["t2i"]["R1"] for block in summary["languages"].values()] == [1, 2]
    table = result_table.table(summary)
    assert "given weights (step 7)" in table and "zh (step 7)" in table
    assert "re-ranked" not in table


def test_a_language_without_a_split_of_its_own_is_judged_in_the_source_language():
    evaluations = [evaluation(10, val=9, val_zh=5, test=50)]
    criterion = Criterion("val", "R1")
    in_language = lambda name: criterion.in_language(name, evaluations).select_on  # noqa: E731
    assert [*map(in_language, ("", "en", "zh", "fr"))] == ["val", "val", "val_zh", "val"]
    only_chinese = [evaluation(10, test_zh=5)]
    assert Criterion("test_zh", "R1").in_language("en", only_chinese).select_on == "test_zh"
