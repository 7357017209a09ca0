"""Models of random weights, for galleries of noise, and the places where a gallery may lie."""

import itertools

import jax
import numpy as np
import pytest

from tipr_jax.inference.model import TrainedModel
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config
from tipr_jax.precision import policy
from tipr_jax.text.clip_bpe import VOCAB_SIZE, ClipTokenizer
from tipr_jax.train_state import define_model

CONFIG = Config.tiny(losses=(), vocab_size=VOCAB_SIZE)


def random_model(seed: int = 0, directory: str = "") -> TrainedModel:
    init = define_model(get_method("irra"), CONFIG, policy())[2]
    params = jax.tree.map(np.asarray, init(jax.random.key(seed)))
    return TrainedModel("irra", CONFIG, params, ClipTokenizer(), directory=directory)


@pytest.fixture(scope="package")
def model() -> TrainedModel:
    return random_model()


_numbers = itertools.count()


@pytest.fixture(scope="session")
def milvus_file(tmp_path_factory) -> str:
    """A file of milvus-lite, for all galleries of this process's tests."""
    for module in ("pymilvus", "milvus_lite"):
        pytest.importorskip(module, reason="needs the extra `milvus`")
    return str(tmp_path_factory.mktemp("milvus") / "trial.db")


@pytest.fixture
def milvus_place(milvus_file) -> str:
    """An address without a gallery."""
    return f"milvus:{milvus_file}/gallery_{next(_numbers)}"


@pytest.fixture(params=["sqlite", "milvus"])
def gallery_place(request, tmp_path):
    """Where there is no gallery yet: a path, or an address on Milvus."""
    if request.param == "milvus":
        return request.getfixturevalue("milvus_place")
    return tmp_path / "my.gallery"
