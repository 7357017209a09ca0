"""The generated data set: people, pictures, captions, and the files it writes."""

import collections
import dataclasses
import hashlib
import io
import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from data_pipelines.synth_pedes import __main__ as command
from data_pipelines.synth_pedes.attributes import (
    COLOURS,
    is_near_twin,
    is_visible,
    sample_identity,
)
from data_pipelines.synth_pedes.caption_plan import make_plan, visible_topics
from data_pipelines.synth_pedes.captions import LANGUAGES, caption
from data_pipelines.synth_pedes.generate import generate
from data_pipelines.synth_pedes.renderer import draw_person, render
from data_pipelines.synth_pedes.view import VIEWPOINTS, sample_cameras, sample_views

SMALL = {"train_ids": 5, "val_ids": 2, "test_ids": 2, "height": 64, "progress": False}
VISIBLE = [f.name for f in dataclasses.fields(sample_identity(0, "train", 0))][:-2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All three layouts, generated once."""
    directory = tmp_path_factory.mktemp("synth")
    for layout in ("cuhk_pedes", "icfg_pedes", "rstp_reid"):
        generate(directory, layout, **SMALL)
    return directory


def a_view(viewpoint="front", height=96, **changes):
    (view,) = sample_views(sample_cameras(0), 1, height, random.Random(1))
    return dataclasses.replace(view, viewpoint=viewpoint, occluder="none", **changes)


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def digest(directory):
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


# ------------------------------------------------------------------------------------ people


def test_a_quarter_are_near_twins_that_differ_in_exactly_one_visible_field():
    people = [sample_identity(3, "test", i) for i in range(200)]
    twins = [i for i in range(200) if is_near_twin(i)]
    assert len(twins) == 50
    for i in twins:
        family = [p for p in people[:i] if p.tint_seed == people[i].tint_seed]
        original = next(p for p in family if not is_near_twin(people.index(p)))
        (field,) = [f for f in VISIBLE if getattr(people[i], f) != getattr(original, f)]
        assert is_visible(people[i], field) and is_visible(original, field)


def test_people_do_not_depend_on_each_other_and_differ_between_splits_and_seeds():
    assert sample_identity(0, "train", 7) == sample_identity(0, "train", 7)
    assert sample_identity(0, "train", 4) != sample_identity(0, "test", 4)
    assert sample_identity(0, "train", 4) != sample_identity(1, "train", 4)


def test_colours_are_jittered_per_person_but_stay_recognisable():
    shades = collections.defaultdict(set)
    for i in range(300):
        person = sample_identity(0, "train", i)
        rgb = np.array(person.rgb("top_colour"))
        shades[person.top_colour].add(tuple(rgb))
        distance = {c: np.abs(rgb - np.array(COLOURS[c])).sum() for c in COLOURS}
        assert distance[person.top_colour] <= min(distance.values()) + 60
    assert all(len(shades[c]) > 3 for c in COLOURS)


# ---------------------------------------------------------------------------------- pictures


def test_picture_has_the_size_of_its_view_and_is_deterministic():
    view = a_view()
    picture = render(sample_identity(0, "train", 0), view)
    assert picture == render(sample_identity(0, "train", 0), view)
    image = Image.open(io.BytesIO(picture))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (view.width, view.height))


def test_views_of_one_person_come_from_different_cameras_and_have_the_promised_sizes():
    views = sample_views(sample_cameras(0), 15, 192, random.Random(0))
    assert len({v.camera.number for v in views}) == 15
    for view in views:
        assert 0.9 * 192 < view.height < 1.1 * 192
        assert view.height / 3.05 < view.width < view.height / 2.35


@pytest.mark.parametrize("viewpoint", VIEWPOINTS)
def test_top_has_its_colour_and_twin_changes_only_that(viewpoint):
    person = dataclasses.replace(
        sample_identity(0, "train", 0), top="sweater", sleeves="long", top_colour="red",
        pattern="plain", bag="none", held="none", scarf="none", hair="short",
    )  # fmt: skip
    view = a_view(viewpoint, offset=(0.5, 0.02), scale=0.95)
    red = draw_person(person, view)
    blue = draw_person(dataclasses.replace(person, top_colour="blue"), view)
    row, column = round(view.height * (0.02 + 0.95 * 0.36)), round(view.width * 0.5)
    assert red[row, column, 0] > 1.5 * red[row, column, 2]
    assert blue[row, column, 2] > 1.5 * blue[row, column, 0]
    np.testing.assert_array_equal(red[..., 3], blue[..., 3])
    knees = round(view.height * 0.7)
    np.testing.assert_array_equal(red[knees:], blue[knees:])


def test_glasses_and_prints_are_hidden_from_behind_and_a_backpack_is_large():
    person = dataclasses.replace(
        sample_identity(0, "train", 0), top="t_shirt", sleeves="short", pattern="print",
        glasses="sunglasses", bag="none", hat="none", scarf="none", hair="short",
    )  # fmt: skip
    bare = dataclasses.replace(person, glasses="none", pattern="plain")
    loaded = dataclasses.replace(bare, bag="backpack", bag_colour="yellow")

    def changed(a, b, viewpoint):
        pair = [draw_person(p, a_view(viewpoint)) for p in (a, b)]
        return int((np.abs(pair[0] - pair[1]).max(axis=-1) > 8).sum())

    assert changed(person, bare, "back") == 0
    assert changed(person, bare, "front") > 10
    assert changed(bare, loaded, "back") > 1.5 * changed(bare, loaded, "front") > 0


def test_every_kind_of_thing_can_be_drawn_from_every_side():
    cameras = sample_cameras(0)
    for i in range(60):
        for view in sample_views(cameras, 2, 64, random.Random(i)):
            alpha = draw_person(sample_identity(5, "train", i), view)[..., 3]
            assert 0.08 < (alpha > 128).mean() < 0.6


# ---------------------------------------------------------------------------------- captions


def test_captions_have_the_length_and_form_of_annotations():
    words = []
    for i in range(300):
        view = a_view(VIEWPOINTS[i % 4])
        text = caption(sample_identity(0, "train", i), view, "en", random.Random(i))
        words.append(len(text.split()))
        assert re.fullmatch(r"[A-Z][^.]*\.( [A-Z][^.]*\.)?", text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |none|_", text), text
    assert 15 <= np.percentile(words, 5) and np.percentile(words, 95) <= 40


def test_most_visible_attributes_are_mentioned_and_colours_of_clothes_nearly_always():
    said, seen = collections.Counter(), collections.Counter()
    for i in range(600):
        person, view = sample_identity(0, "train", i), a_view()
        plan = make_plan(person, view, random.Random(i))
        mentioned = {*plan.wear, *plan.carry, *plan.details, *(["hair"] if plan.hair else [])}
        assert mentioned <= visible_topics(person, view)
        said.update(mentioned - {"build"})
        seen.update(visible_topics(person, view) - {"build"})
    assert 0.65 < said.total() / seen.total() < 0.88
    assert said["top"] / seen["top"] > 0.95 and said["bottom"] / seen["bottom"] > 0.94


def test_captions_do_not_mention_what_the_viewpoint_hides():
    person = dataclasses.replace(
        sample_identity(0, "train", 0), top="t_shirt", sleeves="short", pattern="print",
        glasses="sunglasses", held="phone",
    )  # fmt: skip
    texts = [caption(person, a_view("back"), "en", random.Random(i)) for i in range(60)]
    assert not any(re.search("glasses|phone|print|logo|graphic", t) for t in texts)
    hidden = dataclasses.replace(a_view(), occluder="barrier")
    assert "shoes" not in visible_topics(person, hidden)


def test_translations_describe_the_same_attributes():
    nouns = {  # one unmistakable word per language
        "backpack": {"en": "backpack|rucksack", "zh": "背着", "fr": "sac à dos", "de": "Rucksack"},
        "beanie": {
            "en": "beanie|(knit|woolen) hat",
            "zh": "[线织]帽",
            "fr": "bonnet",
            "de": "mütze",
        },
        "phone": {"en": "phone", "zh": "手机", "fr": "téléphone", "de": "Handy|telefon"},
        "boots": {"en": "boots", "zh": "靴子", "fr": "bottes", "de": "Stiefel"},
    }
    person = dataclasses.replace(
        sample_identity(0, "train", 0), bag="backpack", hat="beanie", held="phone", shoes="boots",
        top="sweater", sleeves="long", bottom="jeans",
    )  # fmt: skip
    for i in range(60):
        texts = {lang: caption(person, a_view(), lang, random.Random(i)) for lang in LANGUAGES}
        for thing, pattern in nouns.items():
            found = {lang: bool(re.search(pattern[lang], texts[lang])) for lang in LANGUAGES}
            assert len(set(found.values())) == 1, (thing, texts)


@pytest.mark.parametrize(
    ("language", "top", "colour", "words"),
    [
        ("fr", "shirt", "white", "une chemise blanche"),
        ("fr", "coat", "green", "un (manteau|pardessus) vert"),
        ("de", "shirt", "white", "ein weißes Hemd"),
        ("de", "coat", "green", "einen grünen Mantel"),
        ("de", "jacket", "red", "eine rote Jacke"),
        ("zh", "coat", "green", "绿色(大衣|长外套)"),
    ],
)
def test_adjectives_agree(language, top, colour, words):
    person = dataclasses.replace(
        sample_identity(0, "train", 0), top=top, top_colour=colour, pattern="plain", sleeves="long"
    )
    plain = [caption(person, a_view("back"), language, random.Random(i)) for i in range(40)]
    assert any(re.search(words, text) for text in plain)
    wrong = {"fr": "un chemise|une (manteau|pardessus)", "de": "einen? (weißes? Mantel|weiße Hemd)"}
    assert not any(re.search(wrong.get(language, "None"), text) for text in plain)


# ------------------------------------------------------------------------------------- files


def test_cuhk_layout(root):
    entries = load(root / "CUHK-PEDES" / "reid_raw.json")
    assert len(entries) == 9 * 4
    assert set(entries[0]) == {"split", "captions", "file_path", "id", "processed_tokens"}
    ids = collections.defaultdict(set)
    for entry in entries:
        ids[entry["split"]].add(entry["id"])
    assert ids == {"train": {1, 2, 3, 4, 5}, "val": {6, 7}, "test": {8, 9}}
    assert all(len(e["captions"]) == len(e["processed_tokens"]) == 2 for e in entries)
    assert all((root / "CUHK-PEDES" / "imgs" / e["file_path"]).is_file() for e in entries)


def test_icfg_layout(root):
    entries = load(root / "ICFG-PEDES" / "ICFG-PEDES.json")
    assert {e["split"] for e in entries} == {"train", "test"}
    assert sorted({e["id"] for e in entries if e["split"] == "train"}) == [0, 1, 2, 3, 4]
    assert all(len(e["captions"]) == 1 for e in entries)
    assert all(e["file_path"].startswith(e["split"] + "/") for e in entries)
    assert all((root / "ICFG-PEDES" / "imgs" / e["file_path"]).is_file() for e in entries)


def test_rstp_layout(root):
    entries = load(root / "RSTPReid" / "data_captions.json")
    assert set(entries[0]) == {"split", "captions", "img_path", "id"}
    assert sorted({e["id"] for e in entries if e["split"] == "train"}) == [0, 1, 2, 3, 4]
    assert set(collections.Counter(e["id"] for e in entries).values()) == {5}
    assert all((root / "RSTPReid" / "imgs" / e["img_path"]).is_file() for e in entries)


def test_attributes_are_what_the_captions_tell(root):
    """One entry per (image, caption) of the annotation file; each names what its caption names."""
    annotated = {
        (entry["file_path"], caption): (entry["split"], entry["id"], tokens)
        for entry in load(root / "CUHK-PEDES" / "reid_raw.json")
        for caption, tokens in zip(entry["captions"], entry["processed_tokens"], strict=True)
    }
    content = load(root / "CUHK-PEDES" / "cuhk_pedes_att.json")
    assert content.pop("source") == "true attributes, synth_pedes"
    found = {
        (entry["file_path"], entry["captions"]): (split, entry["id"], entry["processed_tokens"])
        for split, entries in content.items()
        for entry in entries
    }
    assert found == annotated
    topics = collections.Counter()
    for entry in (entry for entries in content.values() for entry in entries):
        caption, told = entry["captions"].lower(), entry["att"]
        topics.update(told.keys())
        assert ("hair" in told or "head" in caption) == bool(
            re.search("hair|ponytail| bald | shaved ", caption)
        )
        assert ("bag" in told) == ("carrying" in caption or "pulling" in caption)
        assert ("held" in told) == ("holding" in caption)
        for text in told.values():
            assert text and not text.startswith(("a ", "an "))
    assert {"person", "top", "bottom", "shoes", "hair", "bag"} <= set(topics)
    assert not (root / "RSTPReid" / "cuhk_pedes_att.json").exists()


def test_pretraining_list_holds_the_train_split(root):
    for directory, annotations in (
        ("CUHK-PEDES", "reid_raw.json"),
        ("ICFG-PEDES", "ICFG-PEDES.json"),
        ("RSTPReid", "data_captions.json"),
    ):
        want = {
            (entry.get("file_path") or entry["img_path"], caption)
            for entry in load(root / directory / annotations)
            if entry["split"] == "train"
            for caption in entry["captions"]
        }
        pairs = load(root / directory / "pretrain.json")
        got = [(pair["image"].removeprefix("imgs/"), pair["caption"]) for pair in pairs]
        assert set(got) == want and len(got) == len(want)


def test_data_from_before_a_file_existed_gets_it_and_nothing_else(tmp_path):
    directory = generate(tmp_path, **SMALL)
    before = digest(directory)
    (directory / "cuhk_pedes_att.json").unlink()
    times = {p: p.stat().st_mtime_ns for p in directory.rglob("*.*")}
    generate(tmp_path, **SMALL)
    assert digest(directory) == before
    assert times.items() <= {p: p.stat().st_mtime_ns for p in directory.rglob("*.*")}.items()


@pytest.mark.parametrize(
    ("layout", "file", "captions"),
    [
        ("cuhk_pedes", "CUHK-PEDES/reid_raw.json", "8919dc03298f27a3"),
        ("icfg_pedes", "ICFG-PEDES/ICFG-PEDES.json", "3b4e282e27d86bfe"),
        ("rstp_reid", "RSTPReid/data_captions.json", "99a72bca1428a7b8"),
    ],
)
def test_languages_are_added_and_leave_everything_else(root, tmp_path, layout, file, captions):
    plain = digest(root / file.split("/")[0])
    assert plain[file.split("/")[1]].startswith(captions)  # as in the first version
    directory = generate(tmp_path, layout, languages=LANGUAGES, **SMALL)
    with_languages = digest(directory)
    splits = ("train", "test") if layout == "icfg_pedes" else ("train", "val", "test")
    added = {f"{split}_reid_{name}.json" for split in splits for name in ("en", "ch", "fr", "de")}
    assert with_languages.keys() - plain.keys() == added
    assert plain.items() <= with_languages.items()
    # Data that is already there gets the same files.
    (directory / "train_reid_ch.json").unlink()
    generate(tmp_path, layout, languages=["zh"], **SMALL)
    assert digest(directory) == with_languages
    assert not list(directory.glob(".*"))


def test_languages_are_aligned_and_english_is_that_of_the_annotation_file(tmp_path):
    directory = generate(tmp_path, languages=LANGUAGES, **(SMALL | {"val_ids": 0}))
    assert not list(directory.glob("val_*"))
    annotated = {entry["file_path"]: entry for entry in load(directory / "reid_raw.json")}
    for split in ("train", "test"):
        files = {name: directory / f"{split}_reid_{name}.json" for name in ("en", "ch", "fr", "de")}
        entries = {name: load(path) for name, path in files.items()}
        english = entries.pop("en")
        assert [e["file_path"] for e in english] == [
            path for path, entry in annotated.items() if entry["split"] == split
        ]
        for entry in english:
            assert entry["captions"] == annotated[entry["file_path"]]["captions"]
            assert entry["id"] == annotated[entry["file_path"]]["id"]
        nouns = {"en": "backpack", "ch": "双肩包|背包", "fr": "sac à dos", "de": "Rucksack"}
        for name, translated in entries.items():
            assert len(translated) == len(english)
            for source, entry in zip(english, translated, strict=True):
                assert [source["file_path"], source["id"]] == [entry["file_path"], entry["id"]]
                for said, translation in zip(source["captions"], entry["captions"], strict=True):
                    assert said != translation
                    if "backpack" in said:
                        assert re.search(nouns[name], translation), (said, translation)


def test_same_files_on_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.synth_pedes.generate._IN_PROCESS_IMAGES", 0)
    one = generate(tmp_path / "one", workers=1, **SMALL)
    two = generate(tmp_path / "two", workers=2, **SMALL)
    assert digest(one) == digest(two)
    other = generate(tmp_path / "other", workers=1, seed=1, **SMALL)
    assert load(other / "reid_raw.json") != load(one / "reid_raw.json")


def test_second_run_writes_nothing_and_other_parameters_need_overwrite(tmp_path):
    directory = generate(tmp_path, **SMALL)
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    generate(tmp_path, **SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    with pytest.raises(FileExistsError, match="seed 0 instead of 1; pass --overwrite"):
        generate(tmp_path, seed=1, **SMALL)
    generate(tmp_path, seed=1, overwrite=True, **SMALL)
    assert load(directory / "manifest.json")["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["CUHK-PEDES"]


def test_data_of_others_is_never_replaced(tmp_path):
    (tmp_path / "CUHK-PEDES").mkdir()
    (tmp_path / "CUHK-PEDES" / "reid_raw.json").write_text("[]")
    with pytest.raises(FileExistsError, match="never replaced"):
        generate(tmp_path, overwrite=True, **SMALL)
    assert (tmp_path / "CUHK-PEDES" / "reid_raw.json").read_text() == "[]"


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / ".CUHK-PEDES.partial-999999999").mkdir()  # of a process that was killed
    rendered = []

    def fail_late(identity, view):
        rendered.append(view)
        if len(rendered) > 10:
            raise KeyboardInterrupt
        return render(identity, view)

    monkeypatch.setattr("data_pipelines.synth_pedes.generate.render", fail_late)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "market"}, "layout is 'market'; expected one of cuhk_pedes"),
        ({"train_ids": 0}, "train_ids is 0; expected at least 1"),
        ({"languages": ["en", "it"]}, "language 'it' is unknown; use some of en, zh, fr, de"),
        ({"height": 10}, "height is 10; expected at least 48"),
    ],
)
def test_bad_parameters(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path, **(SMALL | wrong))
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    sheet = tmp_path / "people.png"
    argv = [f"--root={tmp_path}", "--train-ids=2", "--val-ids=0", "--test-ids=1", "--height=64"]
    command.main([*argv, f"--contact-sheet={sheet}"])
    assert "is ready" in capsys.readouterr().out
    assert Image.open(sheet).size[0] > 300
    command.main([*argv, "--languages=en,ch"])
    assert (tmp_path / "CUHK-PEDES" / "train_reid_ch.json").is_file()
    with pytest.raises(SystemExit):
        command.main([*argv, "--languages=en,it"])
    assert "language 'it' is unknown" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="pass --overwrite"):
        command.main([*argv, "--seed=3"])
    with pytest.raises(SystemExit):
        command.main([])
