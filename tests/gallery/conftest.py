"""Models of random weights, for galleries of noise."""

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
