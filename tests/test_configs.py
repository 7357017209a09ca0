"""Every config variant describes a model that can be built, and mistakes in it are named."""

import jax
import pytest

from configs import finetune, irra
from tipr_jax import experiment
from tipr_jax.train_state import count_parameters


@pytest.mark.parametrize("variant", irra.VARIANTS)
def test_variant_builds(variant):
    config = irra.get_config(variant)
    exp = experiment.build(config)
    params = jax.eval_shape(exp.init, exp.keys[0])
    experiment.make_optimizer(exp, steps_per_epoch=10)
    assert count_parameters(params) > 0


@pytest.mark.parametrize("variant", finetune.VARIANTS)
def test_fine_tuning_builds(variant):
    config = finetune.get_config(variant)
    exp = experiment.build(config, num_persons=20)
    experiment.make_optimizer(exp, steps_per_epoch=10)
    assert config.data.name == "manifest" and config.eval.select_on == "val"


def test_paper_model_has_the_published_size():
    exp = experiment.build(irra.get_config())
    assert count_parameters(jax.eval_shape(exp.init, exp.keys[0])) == 194_535_419


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="quickstart"):
        irra.get_config("quickstrat")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("method", "iraa", "expected one of .*irra"),
        ("precision", "fp16", "bfloat16"),
        ("mesh.rules", "fsdp", "fully_sharded"),
        ("mesh.data", 3, "product is 8"),
        ("data.batch_size", 60, "not divisible by the 8 devices"),
        ("model.losses", ("sdm", "mlk"), "expected some of"),
        ("model.temperature", 0.0, "positive"),
    ],
)
def test_wrong_values_are_explained(field, value, message):
    config = irra.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        experiment.build(config)


def test_misspelt_model_field():
    config = irra.get_config()
    config.model.vision_widht = 64
    with pytest.raises(ValueError, match="vision_widht"):
        experiment.build(config)


def test_misspelt_field_is_an_error_by_itself():
    config = irra.get_config().lock()
    with pytest.raises(AttributeError, match="optimizer"):
        config.optimiser = 1
