"""Captions in several languages: alignment, splits per language, messages about bad files."""

import json
import logging
import pathlib
import types

import numpy as np
import pytest

from configs import common
from data_pipelines.data_module import DataModule
from data_pipelines.datasets import annotations, multilingual
from data_pipelines.datasets.layouts import LAYOUTS
from data_pipelines.images.image_source import image_source
from tipr_jax.languages import languages_of

ALL = ("en", "zh", "fr", "de")


def load(directory, languages=("en", "zh"), name="cuhk_pedes"):
    return annotations.load_dataset(name, str(directory.parent), languages)


def change(path, edit):
    """Applies `edit`, which changes a list of entries in place or returns another one."""
    entries = json.loads(path.read_text())
    entries = edit(entries) or entries
    path.write_text(json.dumps(entries))


def error_of(directory, languages=("en", "zh"), kind=ValueError):
    with pytest.raises(kind) as caught:
        load(directory, languages)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ----------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", LAYOUTS)
def test_captions_are_aligned_over_languages(name, write_languages):
    directory = write_languages(name, ALL, images=False)
    splits = load(directory, ALL, name)
    assert list(splits) == ["train", "val", "test"]
    assert len(splits["train"].caption) == 20
    for split in splits.values():
        assert split.language == "en" and list(split.translation) == ["zh", "fr", "de"]
        for language, captions in split.translation.items():
            said = [caption.removeprefix("en: ") for caption in split.caption]
            assert [f"{language}: {text}" for text in said] == list(captions)
        for path, text in zip(
            (split.image_path[i] for i in split.caption_image_id), split.caption, strict=True
        ):
            person, view = path.split("/")[-1].removesuffix(".png").split("_")
            assert text in (
                f"en: person {person} seen by {view}",
                f"en: number {person}, view {view}",
            )
            assert path.startswith(f"{directory}/imgs/cam_")


def test_train_persons_are_numbered_by_first_appearance(write_languages):
    directory = write_languages(images=False)
    for file in directory.glob("*.json"):  # ids that no sorting gives 0, 1, 2, ...
        change(file, lambda entries: [e | {"id": 1000 - e["id"] ** 2 % 97} for e in entries])
    ids = [e["id"] for e in json.loads((directory / "train_reid_en.json").read_text())]
    order = list(dict.fromkeys(ids))
    assert order != sorted(order)
    splits = load(directory)
    train = splits["train"].image_person_id
    assert train.dtype == np.int32 and train.tolist() == [order.index(i) for i in ids]
    assert splits["train"].num_persons == 5
    test = json.loads((directory / "test_reid_en.json").read_text())
    assert splits["test"].image_person_id.tolist() == [entry["id"] for entry in test]


def test_the_source_is_the_first_language(write_languages):
    split = load(write_languages(images=False), ("zh", "en"))["test"]
    assert split.language == "zh" and split.caption[0].startswith("zh: ")
    assert list(split.translation) == ["en"]


def test_chinese_is_found_under_both_file_names(write_languages):
    directory = write_languages(images=False)
    assert (directory / "train_reid_ch.json").is_file()
    for split in ("train", "val", "test"):
        (directory / f"{split}_reid_ch.json").rename(directory / f"{split}_reid_zh.json")
    assert load(directory)["train"].translation["zh"][0].startswith("zh: ")
    assert list(load(directory, ("en", "ch"))["train"].translation) == ["zh"]


def test_without_val_files_the_split_is_empty(write_languages):
    directory = write_languages(images=False)
    for path in directory.glob("val_*"):
        path.unlink()
    val = load(directory)["val"]
    assert val.image_path == val.caption == () and val.translation == {"zh": ()}
    assert val.image_person_id.dtype == np.int32 and val.num_persons == 0
    assert val.caption_image_id.shape == (0,)


def test_one_language_is_read_from_the_official_file_alone(write_layout, write_languages):
    write_layout("cuhk_pedes")
    before = annotations.load_dataset("cuhk_pedes", str(write_languages().parent))["train"]
    assert before.language == "" and before.translation == {}
    assert before.caption[0].startswith("person")


def test_extra_captions_are_dropped_and_counted(write_languages, caplog):
    directory = write_languages(images=False)

    def add(entries):
        entries[2]["captions"].append("one more")

    change(directory / "train_reid_ch.json", add)
    with caplog.at_level(logging.INFO, "tipr_jax"):
        train = load(directory)["train"]
    assert len(train.caption) == len(train.translation["zh"]) == 20
    assert "one more" not in train.translation["zh"]
    (record,) = caplog.records
    assert "1 of 41 train captions" in record.message


# -------------------------------------------------------------------------------- wrong files


def test_a_missing_language_says_which_are_there(write_languages):
    directory = write_languages(languages=("en", "zh", "de"), images=False)
    message = error_of(directory, ("en", "fr"), FileNotFoundError)
    assert "no train captions in fr: expected train_reid_fr.json there" in message
    assert "or in annos/, found en, zh, de" in message
    (directory / "train_reid_ch.json").unlink()
    message = error_of(directory, kind=FileNotFoundError)
    assert "expected train_reid_ch.json or train_reid_zh.json" in message


def test_a_language_that_lacks_only_val(write_languages):
    directory = write_languages(images=False)
    (directory / "val_reid_ch.json").unlink()
    assert "no val captions in zh" in error_of(directory, kind=FileNotFoundError)


def test_no_data_set(tmp_path):
    message = error_of(tmp_path / "CUHK-PEDES", kind=FileNotFoundError)
    assert "CUHK-PEDES not found" in message


def test_ufine_bench_without_languages(write_languages):
    directory = write_languages("ufine_bench", images=False)
    with pytest.raises(FileNotFoundError, match="in languages only.*--config.data.source=en"):
        annotations.load_dataset("ufine_bench", str(directory.parent))


def test_another_number_of_entries(write_languages):
    directory = write_languages(images=False)
    change(directory / "train_reid_ch.json", lambda entries: entries[:-1])
    message = error_of(directory)
    assert f"{directory}/train_reid_ch.json: has 14 entries" in message
    assert "but train_reid_en.json has 15" in message


def test_another_order(write_languages):
    directory = write_languages(images=False)
    change(directory / "test_reid_ch.json", lambda entries: [*entries[:1], *entries[:0:-1]])
    message = error_of(directory)
    assert f"{directory}/test_reid_ch.json: entry 1: file_path is 'cam_0/201_0.png'" in message
    assert "but test_reid_en.json has 'cam_1/201_1.png' there" in message


def test_another_id(write_languages):
    directory = write_languages(images=False)
    change(directory / "train_reid_ch.json", lambda entries: entries[6].update(id=77))
    message = error_of(directory)
    assert "train_reid_ch.json: entry 6: id is 77, but train_reid_en.json has" in message


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"id": "p7"}, "id must be an integer, found 'p7'"),
        ({"id": -1}, "id -1 is outside"),
        ({"captions": []}, "captions must be a list of at least one string"),
        ({"captions": 3}, "captions must be a list"),
        ({"file_path": "../x.png"}, "leaves imgs/"),
    ],
)
@pytest.mark.parametrize("file", ["train_reid_en.json", "val_reid_ch.json"])
def test_bad_entry_is_named(write_languages, file, changed, expected):
    directory = write_languages(images=False)
    change(directory / file, lambda entries: entries[1].update(changed))
    message = error_of(directory)
    assert f"{directory}/{file}: entry 1: " in message and expected in message


def test_an_empty_translation_keeps_its_place(write_languages, caplog):
    directory = write_languages(images=False)
    path = directory / "train_reid_ch.json"
    change(path, lambda entries: entries[1].update(captions=[" \u3000"]))
    train = load(directory)["train"]
    assert " \u3000" in train.translation["zh"] and len(train.translation["zh"]) == len(
        train.caption
    )
    assert f"{path}: 1 captions are empty and kept (first: entry 1: caption 0" in caplog.text


def test_the_authors_folder_is_found(write_languages):
    directory = write_languages()
    before = load(directory)["train"]
    (directory / "annos").mkdir()
    for path in directory.glob("*_reid_*.json"):
        path.rename(directory / "annos" / path.name)
    assert load(directory)["train"].translation == before.translation


def test_entries_without_fields(write_languages):
    directory = write_languages(images=False)
    change(directory / "test_reid_en.json", lambda entries: entries[3].pop("id") and None)
    assert "test_reid_en.json: entry 3: has no 'id'" in error_of(directory)
    change(directory / "test_reid_en.json", lambda entries: [*entries[:3], 5])
    assert "entry 3: expected an object with file_path, id, captions" in error_of(directory)


def test_damaged_json(write_languages):
    directory = write_languages(images=False)
    (directory / "test_reid_ch.json").write_text('[{"file_path": ')
    assert "test_reid_ch.json: not valid JSON" in error_of(directory)
    (directory / "test_reid_ch.json").write_text("[]")
    assert "found an empty list" in error_of(directory)


# ------------------------------------------------------------------------ languages of a run


def data_of(source="", target="", languages=()):
    return types.SimpleNamespace(source=source, target=target, languages=languages)


def test_languages_of_a_config():
    assert languages_of(data_of()) == ()
    assert languages_of(data_of("en", "ch")) == ("en", "zh")
    assert languages_of(data_of("en", "zh", ["fr", "en", "de"])) == ("fr", "en", "de")
    assert languages_of(common.get_config().data) == ()
    for typed in ("en,fr", "[en,fr]", "(en, fr)"):
        assert languages_of(data_of("en", "zh", (typed,))) == ("en", "fr")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("en", "it"), "language 'it' is unknown; use some of en, zh, fr, de"),
        (("en",), "the languages are en; expected a source and other languages"),
        (("en", "en"), "the languages are en, en; expected"),
        (("en", "zh", "ch"), "the languages are en, zh, zh; expected"),
    ],
)
def test_wrong_languages(given, expected):
    for call in (
        lambda: languages_of(data_of(languages=given)),
        lambda: annotations.load_dataset("cuhk_pedes", "nowhere", given),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_split_in_a_language(write_languages):
    split = load(write_languages(languages=ALL, images=False), ALL)["test"]
    german = split.in_language("de")
    assert german.caption == split.translation["de"] and german.language == "de"
    assert german.name == "test" and german.translation == {}
    assert german.image_path is split.image_path
    assert german.caption_image_id is split.caption_image_id
    assert split.in_language("en").caption == split.caption
    with pytest.raises(ValueError, match="the test split has no captions in 'en', it has de"):
        german.in_language("en")


# --------------------------------------------------------------------------------- DataModule


@pytest.fixture
def config(write_languages, tmp_path):
    config = common.get_config()
    config.data.root = str(write_languages(languages=ALL).parent)
    config.data.source, config.data.target = "en", "zh"
    config.data.image_size = (16, 8)
    config.data.text_length = 4
    config.data.cache_dir = str(tmp_path / "cache")
    config.eval.batch_size = 4
    return config


def lengths(texts, length):
    return np.array([[ord(text[0])] * length for text in texts], np.int32)


def test_data_module_has_evaluation_splits_of_every_language(config):
    config.data.languages = ("en", "fr", "zh")
    data = DataModule(config, lengths)
    assert data.languages == ("en", "fr", "zh")
    expected = ["train", "val", "test", "val_fr", "val_zh", "test_fr", "test_zh"]
    assert list(data.splits) == expected
    assert list(data.splits["train"].translation) == ["fr", "zh"]
    for name in ("val", "test"):
        for language in ("fr", "zh"):
            split = data.splits[f"{name}_{language}"]
            assert split.image_path is data.splits[name].image_path
            assert split.language == language
            assert all(caption.startswith(f"{language}: ") for caption in split.caption)
    assert data.evaluation_splits(("test",)) == ["test", "test_fr", "test_zh"]
    assert data.evaluation_splits(("val", "test_zh")) == ["val", "val_fr", "val_zh", "test_zh"]
    assert data.evaluation_splits(("test", "test_zh")) == ["test", "test_fr", "test_zh"]
    ids = {int(i) for batch in data.text_batches("test_zh") for i in batch["text_ids"].flat}
    assert ids == {0, ord("z")}


def test_data_module_of_one_language_is_as_before(config, write_layout):
    write_layout("cuhk_pedes", images=False)
    config.data.source = config.data.target = ""
    data = DataModule(config, lengths)
    assert data.languages == () and list(data.splits) == ["train", "val", "test"]
    assert data.evaluation_splits(("val", "test")) == ["val", "test"]


def test_missing_val_files_leave_no_val_splits_to_evaluate(config):
    directory, _ = annotations.find_directory("cuhk_pedes", config.data.root)
    for path in multilingual.find_files(directory, "val", ALL).values():
        pathlib.Path(path).unlink()
    assert DataModule(config, lengths).evaluation_splits(("val", "test")) == ["test", "test_zh"]


def test_pre_training_lists_have_one_language(config):
    config.data.name, config.data.caption_lists = "manifest", ("list.json",)
    with pytest.raises(
        ValueError, match="data.caption_lists are in one language, but en, zh are asked for"
    ):
        DataModule(config)


def test_images_are_decoded_once_for_all_languages(config, tmp_path):
    data = DataModule(config, lengths)
    english = list(data.image_batches("test"))
    (cache,) = (tmp_path / "cache").glob("*.images")
    written = cache.stat().st_mtime_ns
    chinese = list(data.image_batches("test_zh"))
    assert [path.name for path in (tmp_path / "cache").glob("*.images")] == [cache.name]
    assert cache.stat().st_mtime_ns == written
    for one, other in zip(english, chinese, strict=True):
        assert one["image"].any()
        np.testing.assert_array_equal(one["image"], other["image"])
    sources = [image_source(data.splits[name], config.data) for name in ("test", "test_zh")]
    assert sources[0] is sources[1]


def test_data_module_generates_its_languages(config, tmp_path):
    config.data.root = str(tmp_path / "generated")
    config.data.generate = {"train_ids": 2, "val_ids": 1, "test_ids": 1, "height": 64}
    config.data.generate.progress = False
    config.data.target = "de"
    data = DataModule(config, lengths)
    there = sorted(path.name for path in (tmp_path / "generated").glob("*/*_reid_*.json"))
    assert there == [f"{s}_reid_{n}.json" for s in ("test", "train", "val") for n in ("de", "en")]
    assert len(data.splits["train"].translation["de"]) == 2 * 4 * 2
    config.data.languages = ALL  # a second run with more languages
    assert list(DataModule(config, lengths).splits["train"].translation) == ["zh", "fr", "de"]
