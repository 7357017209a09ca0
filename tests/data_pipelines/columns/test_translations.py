"""What batches of Bi-IRRA hold besides: the draws, their dependence, padding rows."""

import collections
import types

import numpy as np
import pytest
from data_pipelines.two_languages import TwoLanguageColumns

from data_pipelines.columns import make_columns
from data_pipelines.datasets.split import Split
from tipr_jax.models import bi_irra
from tipr_jax.text.xlm_roberta import train

EN = [f"a man number {i} in a blue shirt and with a red bag" for i in range(40)]
ZH = [f"一名男子{i}穿着蓝色衬衫背着红色的包" for i in range(40)]
FR = [f"un homme {i} avec une chemise bleue et un sac rouge" for i in range(40)]
TOKENIZER = train(EN + ZH + FR, 400)
LENGTH = 24


def make_split(**translation):
    ids = np.arange(40, dtype=np.int32)
    return Split("train", ("/x.png",) * 40, ids, tuple(EN), ids, "en", translation)


def make_config(*targets, seed=0, **model):
    fields = bi_irra.Config.tiny(**model)
    data = types.SimpleNamespace(
        columns="two_languages",
        languages=("en", *targets),
        source="",
        target="",
        image_size=fields.image_size,
        text_length=LENGTH,
        batch_size=8,
    )
    return types.SimpleNamespace(data=data, model=fields, seed=seed)


def make(*targets, **options):
    split = make_split(**{name: {"zh": ZH, "fr": FR}[name] for name in targets})
    return TwoLanguageColumns(split, TOKENIZER, make_config(*targets, **options))


ROWS = np.array([7, -1, 3, 39, 0])
PLACES = np.array([5, 6, 4, 7, 1])


def test_columns_are_those_the_model_asks_for():
    config = bi_irra.Config.tiny(text_length=LENGTH)
    want = bi_irra.columns(config)
    got = make("zh")(ROWS, 0, PLACES)
    assert {name: (x.shape[1:], x.dtype.type) for name, x in got.items()} == want
    assert all(len(x) == 5 for x in got.values())


def test_contents():
    got = make("zh", mlm_prob=0.4)(ROWS, 3, PLACES)
    there = ROWS >= 0
    assert got["target_language"].tolist() == [1] * 5
    for prefix, captions in (("", EN), ("target_", ZH)):
        clean = TOKENIZER([captions[row] for row in ROWS[there]], LENGTH)
        at, labels, ids = (
            got[f"{prefix}mlm_{name}"][there] for name in ("positions", "labels", "ids")
        )
        if prefix:
            np.testing.assert_array_equal(got["target_ids"][there], clean)
        for text, masked, places, words in zip(clean, ids, at, labels, strict=True):
            used = words != -100
            tokens = np.count_nonzero(text != TOKENIZER.pad_id)
            assert (
                used.sum() == min(4, round(0.4 * tokens)) and len(set(places[used])) == used.sum()
            )
            assert np.all(places[used] > 0) and not places[~used].any()
            np.testing.assert_array_equal(text[places[used]], words[used])
            assert set(np.flatnonzero(text != masked)) <= set(places[used])
            assert np.all(masked[tokens:] == TOKENIZER.pad_id)
        assert np.any(ids == TOKENIZER.mask_id)


def test_padding_rows():
    got = make("zh")(ROWS, 0, PLACES)
    for name, column in got.items():
        fill = {"target_language": 1}.get(name, -100 if name.endswith("labels") else 0)
        assert np.all(column[1] == fill), name
    empty = make("zh")(np.array([-1, -1]), 0, np.array([0, 1]))
    assert all(len(x) == 2 for x in empty.values()) and not empty["patch_mask"].any()


def test_texts_depend_on_seed_epoch_and_row_alone():
    columns, texts = make("zh", "fr"), lambda x: {k: v for k, v in x.items() if k != "patch_mask"}
    whole = texts(columns(ROWS, 2, PLACES))
    for i, row in enumerate(ROWS):
        one = texts(make("zh", "fr")(np.array([row]), 2, np.array([99 + i])))
        for name, column in one.items():
            np.testing.assert_array_equal(column[0], whole[name][i], err_msg=name)
    for other in (columns(ROWS, 1, PLACES), make("zh", "fr", seed=5)(ROWS, 2, PLACES)):
        assert not np.array_equal(other["mlm_ids"], whole["mlm_ids"])


def test_languages_are_masked_independently():
    split = make_split(zh=tuple(EN))
    got = TwoLanguageColumns(split, TOKENIZER, make_config("zh"))(np.arange(40), 0, np.arange(40))
    assert not np.array_equal(got["mlm_positions"], got["target_mlm_positions"])


def test_each_row_draws_a_target_evenly():
    columns, rows = make("zh", "fr"), np.arange(40)
    counts = collections.Counter()
    for epoch in range(30):
        got = columns(rows, epoch, rows)
        counts.update(got["target_language"].tolist())
        captions = [(EN, ZH, FR)[k][row] for row, k in enumerate(got["target_language"])]
        np.testing.assert_array_equal(got["target_ids"], TOKENIZER(captions, LENGTH))
    assert set(counts) == {1, 2} and abs(counts[1] - 600) < 5 * np.sqrt(300)


def test_patch_masks_are_shared_by_the_groups_of_the_hard_negatives():
    rows = places = np.arange(16)
    by_group = make("zh", itm_group_size=4)(rows, 0, places)["patch_mask"]
    groups = by_group.reshape(4, 4, -1)
    assert np.all(groups == groups[:, :1])
    assert len(np.unique(by_group, axis=0)) > 1
    # A batch smaller than a group is a group of its own.
    small = make("zh", itm_group_size=32, mim_mask="random")(rows, 0, places)["patch_mask"]
    assert np.all(small[:8] == small[0]) and not np.array_equal(small[0], small[8])
    alone = make("zh", mim_mask="random", mim_mask_scope="sample")(rows, 0, places)["patch_mask"]
    assert len(np.unique(alone, axis=0)) > 10
    grid = make("zh", mim_mask="grid")(rows, 0, places)["patch_mask"]
    assert grid[0].reshape(4, 2).tolist() == [[False, True], [True, False]] * 2


def test_laws_come_from_the_config():
    rows = np.arange(40)
    few = make("zh", mlm_max_masks=2)(rows, 0, rows)["mlm_labels"]
    assert few.shape == (40, 2) and np.all(few != -100)
    none = make("zh", mim_ratio=0.0)(rows, 0, rows)["patch_mask"]
    assert not none.any()
    single = make("zh", mlm_span_prob=0.0)(rows, 0, rows)["mlm_positions"]
    spans = make("zh", mlm_span_prob=1.0, mlm_span_max=2)(rows, 0, rows)["mlm_positions"]

    def neighbours(x):
        return np.mean(np.diff(np.sort(x), axis=1) == 1)

    assert neighbours(spans) > neighbours(single) + 0.2


def test_the_table_of_columns():
    split, config = make_split(zh=tuple(ZH)), make_config("zh")
    got = make_columns(split, TOKENIZER, config, "")(ROWS, 0, PLACES)
    np.testing.assert_array_equal(got["mlm_ids"], make("zh")(ROWS, 0, PLACES)["mlm_ids"])
    config.data.languages = ()
    with pytest.raises(ValueError, match="the data has one language; set --config.data.source"):
        make_columns(make_split(), TOKENIZER, config, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlm_prob": 1.5}, r"mlm_prob is 1.5, expected a share in \[0, 1\]"),
        ({"mim_ratio": -0.1}, "mim_ratio is -0.1"),
        ({"mlm_span_max": 1}, "mlm_span_max is 1, expected at least 2"),
        ({"mlm_max_masks": 0}, "mlm_max_masks is 0, expected at least 1"),
    ],
)
def test_impossible_laws(change, message):
    with pytest.raises(ValueError, match=message):
        bi_irra.Config.tiny(**change)
