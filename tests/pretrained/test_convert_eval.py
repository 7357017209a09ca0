"""A released checkpoint, converted, ranks exactly as the original evaluator ranks it.

The reference is `torch_irra`, which shares no code with the package.
"""

import jax
import numpy as np
import pytest
from clip_models import official_irra
from flax import nnx
from torch_irra import released_metrics, torch_features

from tipr_jax import convert
from tipr_jax.checkpoints import load_params
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config
from tipr_jax.precision import ComputePolicy
from tipr_jax.run_files import model_fields
from tipr_jax.train_state import define_model


@pytest.fixture(scope="module")
def data():
    """24 images of 8 persons, two captions each, more alike within a person than between."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(8), 3)
    base = rng.integers(0, 256, (8, 24, 16, 3))
    image = np.clip(base[person] + rng.integers(-60, 60, (24, 24, 16, 3)), 0, 255).astype(np.uint8)
    text_person = np.repeat(person, 2)
    words = rng.integers(1, 125, (8, 14))[text_person]
    words = np.where(rng.random(words.shape) < 0.3, rng.integers(1, 125, words.shape), words)
    text = np.zeros((48, 16), np.int32)
    text[:, 0], text[:, 1:15], text[:, 12] = 126, words, 127
    text[:, 13:] = 0
    return image, text, text_person, person


def test_converted_checkpoint_ranks_as_the_original(tmp_path, data):
    import torch

    from tipr_jax.metrics.retrieval import retrieval_metrics

    image, text, text_person, image_person = data
    state = official_irra()
    tensors = {key: torch.tensor(value) for key, value in state.items()}
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "best.pth")
    want_image, want_text = torch_features(state, image, text)
    want = released_metrics(want_text, want_image, text_person, image_person)

    arguments = [f"--input={tmp_path / 'best.pth'}", f"--output={tmp_path / 'weights'}"]
    convert.main(["--method=irra", "--image_size=24,16", *arguments])
    _, params = load_params(tmp_path / "weights")
    config = Config(**model_fields(tmp_path / "weights")[1])
    graphdef = define_model(get_method("irra"), config, ComputePolicy())[0]
    model = nnx.merge(graphdef, params)
    image_embed = jax.jit(lambda m, x: m.encode_image(x))(model, image)
    text_embed = jax.jit(lambda m, x: m.encode_text(x))(model, text)
    np.testing.assert_allclose(image_embed, want_image, rtol=0, atol=2e-5)
    np.testing.assert_allclose(text_embed, want_text, rtol=0, atol=2e-5)
    ours = retrieval_metrics(
        np.asarray(text_embed), np.asarray(image_embed), text_person, image_person
    )
    assert 10 < want["mAP"] < 90  # neither trivial nor perfect
    for key, value in want.items():
        assert ours[key] == pytest.approx(value, abs=1e-4), key
