"""What a Bi-IRRA run takes from its data and from the model it starts from."""

import dataclasses
import json

import numpy as np
import pytest

from configs import bi_irra as configs
from tipr_jax import batch, experiment, run_files
from tipr_jax.analysis import cost
from tipr_jax.checkpoints import save_params
from tipr_jax.models import bi_irra, get_method
from tipr_jax.pretrained import start

METHOD = get_method("bi_irra")
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
    got = model_of(start.sized_like(configs.get_config(), source))
    data = {"languages": ("en", "zh"), "num_persons": got.num_persons}
    recipe = {
        name: getattr(got, name)
        for name in ("dropout", "losses", "mlm_prob", "mlm_max_masks", "drop_path")
    }
    assert got.positions == "roberta" and got.fusion_epsilon == 1e-12 and got.text_heads == 4
    assert dataclasses.replace(GIVEN, itm_group_size=32, **data, **recipe) == got
    assert got.mlm_prob == 0.4  # a matter of training


def test_training_takes_the_sizes_but_may_read_positions_its_way(source):
    got = model_of(start.sized_like(configs.get_config(), source, training=True))
    for name in ("width", "vision_heads", "text_heads", "text_ffn", "tie_decoder", "vocab_size"):
        assert getattr(got, name) == getattr(GIVEN, name), name
    assert (got.positions, got.fusion_epsilon) == ("bert0", 1e-5)


def test_projections_of_their_own_fit_their_languages_alone(tmp_path):
    fields = dataclasses.asdict(GIVEN) | {"separate_target_proj": True}
    save_params(tmp_path, {"w": np.zeros(1)}, {"method": "bi_irra", "model": fields})
    config = configs.get_config()
    with pytest.raises(ValueError, match="has parameters for each of fr, the data is in en, zh"):
        start.sized_like(config, tmp_path)
    config.data.target = "fr"
    assert start.sized_like(config, tmp_path).model.separate_target_proj


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
    specs = METHOD.columns(config)
    sizes = dict(vocab_size=config.vocab_size, num_persons=4, specs=specs)
    made = batch.synthetic_batch(4, *shapes.values(), **sizes)
    batch.validate(made, batch.abstract_batch(4, *shapes.values(), specs))
    assert np.all(made["target_language"] == 1) and made["patch_mask"].shape == (4, 8)
    assert made["target_mlm_positions"].max() < config.text_length


def test_a_batch_is_whole_groups_and_a_device_need_not_hold_them():
    config = configs.get_config("debug")
    config.data.batch_size, config.model.itm_group_size = 24, 16
    with pytest.raises(ValueError, match="batch_size 24 .* cannot be cut into groups of 16"):
        experiment.build(config)
    config.data.batch_size, config.model.itm_group_size = 48, 16  # 6 rows on each of 8 devices
    exp = experiment.build(config)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=10)
    assert cost.describe(exp, experiment.abstract_state(exp, optimizer)).startswith("memory")


@pytest.mark.parametrize("method", ["irra", "bi_irra"])
def test_runs_from_before_there_were_languages_load(tmp_path, method):
    data = {"image_size": [32, 16], "text_length": 12}
    saved = {"method": method, "model": {"patch": 8}, "data": data}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert "languages" not in run_files.model_fields(tmp_path)[1]


def test_only_a_multilingual_model_has_languages(tmp_path):
    names = {"languages": [], "source": "en", "target": "fr"}
    data = {"image_size": [32, 16], "text_length": 12} | names
    for method, expected in (("irra", None), ("bi_irra", ("en", "fr"))):
        saved = {"method": method, "model": {"patch": 8}, "data": data}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        fields = run_files.model_fields(tmp_path)[1]
        config = get_method(method).config.from_stored(fields, {})
        assert config.languages == (expected or ())
