"""A journal keeps every finished line, once, however its writer ended."""

import json

import pytest

from data_pipelines.ldat import journal
from data_pipelines.ldat.journal import Journal, KeySet, Lines, content_key

KEYS = [content_key("a", number) for number in range(300)]


def write(path, keys):
    with Journal(path) as file:
        file.append({"key": key, "text": f"红{key}"} for key in keys)


def test_what_was_appended_is_found(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, KEYS[:100])
    write(path, KEYS[100:200])
    with Journal(path) as file:
        assert [key in file.keys for key in KEYS] == [True] * 200 + [False] * 100
    with Lines(path) as lines:
        assert len(lines) == 200
        assert lines.get(KEYS[150]) == {"key": KEYS[150], "text": f"红{KEYS[150]}"}
        assert lines.get(KEYS[250]) is None


def test_a_writer_that_ended_at_any_byte_costs_the_last_line_only(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, KEYS[:3])
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        done = sum(end <= size for end in ends)
        with Journal(path) as file:
            assert sum(key in file.keys for key in KEYS) == done
            file.append({"key": key, "text": f"红{key}"} for key in KEYS[done:3])
        assert path.read_bytes() == whole


def test_a_reader_passes_over_a_line_that_is_being_written(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, KEYS[:2])
    path.write_bytes(path.read_bytes()[:-5])
    with Lines(path) as lines:
        assert lines.get(KEYS[0]) and not lines.get(KEYS[1])


@pytest.mark.parametrize("damage", ["{", "[]", '{"key": 3}', '{"text": "a"}', "", "\0\0"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    path = tmp_path / "a.jsonl"
    write(path, KEYS[:2])
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{damage}\n{second}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: line 2 .*delete the line"):
        Lines(path)
    with pytest.raises(ValueError, match="line 2"):
        Journal(path)


def test_the_last_line_of_a_key_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path) as file:
        file.append([{"key": KEYS[0], "text": "old"}, {"key": KEYS[0], "text": "new"}])
    with Lines(path) as lines:
        record = lines.get(KEYS[0])
        assert record and record["text"] == "new"


def test_keys_that_begin_alike_are_told_apart(tmp_path):
    path, same = tmp_path / "a.jsonl", "0" * 16
    records = [{"key": same + end * 48, "text": end} for end in "abc"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with Lines(path) as lines:
        assert [lines.get(record["key"]) for record in records] == records
        assert lines.get(same + "d" * 48) is None


def test_one_process_writes_at_a_time(tmp_path):
    with (
        Journal(tmp_path / "a.jsonl"),
        pytest.raises(ValueError, match="written by another process"),
    ):
        Journal(tmp_path / "a.jsonl")
    write(tmp_path / "a.jsonl", KEYS[:1])


def test_a_key_set_that_has_settled_holds_what_a_set_holds(monkeypatch):
    monkeypatch.setattr(journal, "_SETTLE", 64)
    keys = KeySet()
    for number, key in enumerate(KEYS):
        assert key not in keys
        keys.add(key)
        keys.add(KEYS[number // 2])
        assert key in keys and KEYS[0] in keys
    assert all(key in keys for key in KEYS)


def test_a_key_depends_on_every_part_and_its_place():
    parts = [("a", "b"), ("b", "a"), ("ab", ""), ("a", "b", None), ("a", ["b"]), ("a", "b ")]
    assert len({content_key(*part) for part in parts}) == len(parts)
    assert content_key({"x": 1, "y": 2}) == content_key({"y": 2, "x": 1})
