"""Bi-IRRA's variants describe models that can be built, with the released optimiser rules."""

import random

import jax
import pytest
from ml_collections import ConfigDict

from configs import bi_irra as configs
from data_pipelines.synth_pedes.attributes import sample_identity
from data_pipelines.synth_pedes.captions import caption
from data_pipelines.synth_pedes.view import sample_cameras, sample_views
from tipr_jax import experiment
from tipr_jax.text.xlm_roberta import UNKNOWN_ID, train


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_variant_builds(variant):
    config = configs.get_config(variant)
    exp = experiment.build(config)
    jax.eval_shape(exp.init, exp.keys[0])
    experiment.make_optimizer(exp, steps_per_epoch=10)
    assert config.data.batch_size % exp.model_config.itm_group_size == 0
    while config.warm_start:
        changes, config.warm_start = config.warm_start, ConfigDict()
        config.update(changes)
        experiment.build(config)


def test_every_model_field_is_in_the_config():
    """Or comes from the data: so that --config.model.x finds every switch."""
    from_data = {"image_size", "text_length", "num_persons", "languages"}
    known = {f.name for f in configs_fields()}
    assert set(configs.get_config().model) == known - from_data


def configs_fields():
    import dataclasses

    from tipr_jax.models.bi_irra.config import Config

    return dataclasses.fields(Config)


def test_defaults_of_config_and_model_agree():
    from tipr_jax.models.bi_irra.config import Config

    model = configs.get_config().model
    assert {k: getattr(Config(), k) for k in model} == dict(model)


def test_unknown_variant():
    with pytest.raises(ValueError, match="x2vlm"):
        configs.get_config("x2vl")


def test_pieces_of_the_small_vocabulary_are_shared_between_captions():
    """No Chinese phrases as one piece: a colour or a garment must be learned once, not per phrase.

    XLM-R's pieces have one to two Chinese characters.
    """
    captions = {language: generated_captions(language) for language in ("en", "zh")}
    size = configs.get_config("quickstart_pretrained").model.vocab_size
    tokenizer = train([*captions["en"], *captions["zh"]], size)
    pieces = (tokenizer(captions["zh"], 200) > UNKNOWN_ID).sum()
    assert sum(map(len, captions["zh"])) / pieces < 3


def generated_captions(language: str, people: int = 1000) -> list[str]:
    rng, captions = random.Random(0), []
    for index in range(people):
        (view,) = sample_views(sample_cameras(0), 1, 96, rng)
        captions.append(caption(sample_identity(0, "train", index), view, language, rng))
    return captions
