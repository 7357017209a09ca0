"""What a Bi-IRRA run takes from its data and from the model it starts from."""

import dataclasses

import numpy as np
import pytest

from configs import bi_irra as configs
from tipr_jax import batch, experiment
from tipr_jax.checkpoints import save_params
from tipr_jax.models import MODELS, bi_irra

METHOD = MODELS["bi_irra"]
GIVEN = bi_irra.Config.tiny(
    width=48,
    vision_heads=3,
    text_heads=4,
    text_ffn=80,
    positions="roberta",
    fusion_epsilon=1e-12,
    tie_decoder=False,
    mlm_prob=0.1,
    languages=("en", "fr"),
)


@pytest.fixture
def source(tmp_path):
    fields = dataclasses.asdict(GIVEN)
    save_params(tmp_path / "model", {"w": np.zeros(1)}, {"method": "bi_irra", "model": fields})
    return tmp_path / "model"


def model_of(config):
    return experiment.make_model_config(METHOD, config, {})


def test_evaluation_needs_no_flags_for_a_model_of_another_size(source):
    got = model_of(experiment.adopt_model(configs.get_config(), source))
    data = {"languages": ("en", "zh"), "num_persons": got.num_persons}
    recipe = {
        name: getattr(got, name)
        for name in ("dropout", "losses", "mlm_prob", "mlm_max_masks", "drop_path")
    }
    assert got.positions == "roberta" and got.fusion_epsilon == 1e-12 and got.text_heads == 4
    assert dataclasses.replace(GIVEN, itm_group_size=32, **data, **recipe) == got
    assert got.mlm_prob == 0.4  # a matter of training


def test_training_takes_the_sizes_but_may_read_positions_its_way(source):
    got = model_of(experiment.adopt_model(configs.get_config(), source, training=True))
    for name in ("width", "vision_heads", "text_heads", "text_ffn", "tie_decoder", "vocab_size"):
        assert getattr(got, name) == getattr(GIVEN, name), name
    assert (got.positions, got.fusion_epsilon) == ("bert0", 1e-5)


def test_projections_of_their_own_fit_their_languages_alone(tmp_path):
    fields = dataclasses.asdict(GIVEN) | {"separate_target_proj": True}
    save_params(tmp_path, {"w": np.zeros(1)}, {"method": "bi_irra", "model": fields})
    config = configs.get_config()
    with pytest.raises(ValueError, match="has a projection each for fr, the data is in en, zh"):
        experiment.adopt_model(config, tmp_path)
    config.data.target = "fr"
    assert experiment.adopt_model(config, tmp_path).model.separate_target_proj


def test_languages_are_those_of_the_data():
    config = configs.get_config("debug")
    assert model_of(config).languages == ("en", "zh")
    config.data.target = "de"
    assert model_of(config).languages == ("en", "de")
    config.data.languages = ("zh", "en", "fr")
    assert model_of(config).languages == ("zh", "en", "fr")
    config.data.languages = ("en", "en")
    with pytest.raises(ValueError, match="the languages are en, en"):
        model_of(config)


def test_synthetic_batches_hold_every_column():
    config = bi_irra.Config.tiny()
    shapes = dict(image_size=config.image_size, text_length=config.text_length)
    columns = METHOD.columns(config)
    sizes = dict(vocab_size=config.vocab_size, num_persons=4, columns=columns)
    made = batch.synthetic_batch(4, *shapes.values(), **sizes)
    batch.validate(made, batch.abstract_batch(4, *shapes.values(), columns))
    assert np.all(made["target_language"] == 1) and made["patch_mask"].shape == (4, 8)
    assert made["target_mlm_positions"].max() < config.text_length
