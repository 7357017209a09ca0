"""What a search may ask for besides looks, from Python and from a command line."""

import numpy as np
import pytest

from tipr_jax.gallery.filters import parse
from tipr_jax.gallery.store import IN_MEMORY, Item
from tipr_jax.gallery.stores import create_store

FACTS = [
    dict(camera="gate", time="2026-11-01T08:00", tags=("vip", "staff"), meta={"floor": 1}),
    dict(camera="hall", time="2026-11-02T09:30", tags=("staff",), meta={"floor": 2, "shop": "A"}),
    dict(camera="gate", time="2026-11-03T10:00", track=4, frame_time=2.5, meta={"open": True}),
    dict(meta={"shop": 'it\'s "B"'}),
]


@pytest.fixture(scope="module", params=["sqlite", "milvus"])
def store(request):
    place = IN_MEMORY
    if request.param == "milvus":
        place = f"milvus:{request.getfixturevalue('milvus_file')}/filters"
    store = create_store(place)
    model = store.register_model("f" * 64, "", 2, {})
    items = [
        Item(f"{n:064x}", f"/photos/{'ab'[n // 2]}/{n}.jpg", **facts)
        for n, facts in enumerate(FACTS)
    ]
    store.add(items, np.zeros((4, 2)), model)
    return store


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([], [1, 2, 3, 4]),
        (["camera=gate"], [1, 3]),
        (["camera=gate,hall"], [1, 2, 3]),
        (["camera = hall "], [2]),
        (["time>=2026-11-02"], [2, 3]),
        (["time>=2026-11-02", "time<2026-11-03"], [2]),
        (["camera=gate", "tag=vip"], [1]),
        (["tag=staff,nobody"], [1, 2]),
        (["path=/photos/b/*"], [3, 4]),
        (["path=*/0.jpg,*/3.jpg"], [1, 4]),
        (["track=4"], [3]),
        (["frame_time<3"], [3]),
        (["id>2"], [3, 4]),
        (["floor=1"], [1]),
        (["floor>=1"], [1, 2]),
        (["shop=A"], [2]),
        (['shop=it\'s "B"'], [4]),
        (["open=true"], [3]),
        (["camera=x' OR '1'='1"], []),
        (["added>=2000", "added<2999-01-01"], [1, 2, 3, 4]),
        (["added<2000-01-01"], []),
    ],
)
def test_filters(store, terms, expected):
    assert store.select(parse(terms)).tolist() == expected


def test_from_python(store):
    assert store.select({"camera": ["gate"], "track": 4}).tolist() == [3]
    assert store.select({"camera": []}).tolist() == []
    assert store.select({"floor": 2, "shop": ("A", "B")}).tolist() == [2]


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (["camera"], "expected FIELD=VALUE"),
        (["=gate"], "expected FIELD=VALUE"),
        (["colour=red"], "'colour': no item has such a field; there are id, path, camera"),
        (["__box__=1"], "no item has such a field"),
        (["track=seven"], "expected a number"),
        (["tag>a"], "expected tag=NAME"),
        (["item.id; DROP TABLE item=1"], "no item has such a field"),
    ],
)
def test_what_cannot_be(store, terms, words):
    with pytest.raises(ValueError, match=words):
        store.select(parse(terms))
    assert len(store.select()) == 4
