"""RDE: the published recipe, and small variants of it.

Variants: cuhk_pedes (default), icfg_pedes, rstp_reid: the paper's runs, starting from CLIP;
quickstart: a small model on generated data, minutes on a CPU; debug: one epoch of a tiny model;
mesh_check: the model of scripts/check_meshes.py.
"""

from ml_collections import ConfigDict

from configs import common, irra
from tipr_jax.models.rde import Config

DATASETS = ("cuhk_pedes", "icfg_pedes", "rstp_reid")
VARIANTS = (*DATASETS, "quickstart", "debug", "mesh_check")


def get_config(variant: str = "cuhk_pedes") -> ConfigDict:
    """Raises ValueError for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} of configs/rde.py, expected one of {VARIANTS}")
    config = paper()
    if variant in DATASETS:
        config.data.name = variant
        if variant == "rstp_reid":
            config.model.division = "tight"
    else:
        others = (quickstart, debug, mesh_check)
        {function.__name__: function for function in others}[variant](config)
    return config


def paper() -> ConfigDict:
    """The released defaults; see tipr_jax/models/rde/config.py for every model field.

    With captions exchanged on purpose (`python -m data_pipelines.noise`) at a rate above 0.4 the
    paper has config.model.division = "tight".
    """
    config = common.get_config()
    config.method = "rde"

    config.model = common.model_fields(Config())

    # The release is built on IRRA's and keeps its optimiser and schedule.
    released = irra.paper()
    config.optimizer, config.schedule = released.optimizer, released.schedule
    # With precision float16_released: the parameters that the released code keeps in float16.
    config.optimizer.float16 = r"^(?!.*(embed$|/ln_|_norm/)).*"
    # The released rate of the token selection is 1e-3, whatever the others' rate is.
    config.optimizer.groups = groups(selection=100.0)
    return config


def groups(selection: float) -> tuple[tuple[str, float, bool], ...]:
    """(pattern, learning-rate multiplier, weight decay), of which the first match decides.

    selection: the multiplier of the two token selections.
    """
    return (
        ("_selection/.*bias$", selection, False),
        ("_selection/", selection, True),
        ("bias$", 2.0, False),
        (".*", 1.0, True),
    )


def quickstart(config: ConfigDict) -> None:
    """A small RDE from random weights on generated pedestrians, sized for two CPU cores.

    From random weights the division has nothing to go by, and the hinge of TAL no foothold. So a
    warm start comes first, plain contrastive training on all pairs.
    """
    common.generate(config, "data/synth_pedes", train=1500, val=50, test=100)
    config.data.image_size = (96, 32)
    config.data.text_length = 48
    config.data.batch_size = 128
    config.data.last_batch = "drop"

    config.model.vision_width = 128
    config.model.vision_depth = 3
    config.model.text_width = 128
    config.model.text_depth = 2
    config.model.embed_dim = 128
    config.model.tse_dim = 128

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-8
    config.optimizer.groups = groups(selection=2.0)
    config.schedule.num_epochs = 2
    config.schedule.warmup_epochs = 0

    config.warm_start.model = {"losses": ("infonce",), "temperature": 0.05, "division": "none"}
    config.warm_start.optimizer = {"learning_rate": 1e-3}
    config.warm_start.schedule = {"num_epochs": 8, "warmup_epochs": 1, "warmup_factor": 0.5}
    config.warm_start.eval = {"every_epochs": 8}


def debug(config: ConfigDict) -> None:
    """One epoch of a tiny model on a handful of generated identities: does everything run?"""
    quickstart(config)
    common.generate(config, "data/synth_pedes_debug", train=8, val=4, test=4)
    config.data.batch_size = 16
    config.model.vision_width = config.model.text_width = config.model.embed_dim = 64
    config.model.vision_depth = config.model.text_depth = 1
    config.model.tse_dim = 64
    config.schedule.num_epochs = 1
    config.warm_start = ConfigDict()


def mesh_check(config: ConfigDict) -> None:
    """For `scripts/check_meshes.py`: wide enough that four devices share a layer.

    Not with statistics of the batch: the bias before them has the gradient 0, and of its rounding
    every mesh has another. tests/test_rde_training.py compares meshes in that mode. And with all
    tokens selected: which of two nearly equal ones is among the chosen, rounding decides.
    """
    debug(config)
    config.model.vision_width = config.model.text_width = config.model.embed_dim = 256
    config.model.tse_dim = 256
    config.model.patch = config.model.stride = 8
    config.model.vocab_size = 512
    config.model.select_ratio = 1.0
