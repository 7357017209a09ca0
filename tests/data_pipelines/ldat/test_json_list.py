"""JSON lists are read and written member by member."""

import json
import tracemalloc

import pytest

from data_pipelines.ldat import json_list


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_chunks_of_any_size_give_the_same(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_list, "_CHUNK", chunk)
    members = [
        {"file_path": "a.png", "captions": ['一名"男子"', "a\\n]"], "id": 3},
        {},
        {"b": [[]]},
    ]
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(members, indent=indent, ensure_ascii=False), "utf-8")
    assert list(json_list.read(path)) == members
    path.write_text(" [ ] ")
    assert list(json_list.read(path)) == []


@pytest.mark.parametrize("size", range(1, 20))
def test_a_truncated_file_is_named(tmp_path, size):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"b": 2}]'[:size])
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON.*truncated"):
        list(json_list.read(path))


@pytest.mark.parametrize(
    "content, message",
    [(b"{}", "expected a JSON list"), (b"", "expected a JSON list"), (b"[\xff]", "UTF-8")],
)
def test_another_file_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(json_list.read(tmp_path / "a.json"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.json"
    json_list.write(path, ({"id": number, "text": "x" * 1000} for number in range(12_000)))
    assert path.stat().st_size > 12e6
    tracemalloc.start()
    try:
        assert sum(1 for _ in json_list.read(path)) == 12_000
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()


def test_a_list_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    json_list.write(path, [{"a": 1}])

    def failing():
        yield {"b": 2}
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        json_list.write(path, failing())
    assert json.loads(path.read_text()) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    json_list.write(path, [])
    assert json.loads(path.read_text()) == []
