"""Fine-tuning on your own photos and sentences, from a model that is trained.

  python -m tipr_jax.main --config=configs/finetune.py:irra --workdir=runs/mine \\
      --config.data.root=my_people.csv --config.init_from=runs/quickstart

Variants: the methods, at the size of their papers' models, and quickstart, for the small IRRA that
`configs/irra.py:quickstart` trains. The data is a manifest: `python -m data_pipelines.manifest make
PHOTOS` writes a first one, and data_pipelines/manifest says what it may hold. Few photos need small
steps, few epochs and a selection on `val`; afterwards the weights before and after are interpolated
and compared, on the new data and on the data that the model was trained on.
"""

import importlib

from ml_collections import ConfigDict

from configs import irra

METHODS = ("irra", "ivt", "bi_irra", "rde")
VARIANTS = (*METHODS, "quickstart")
ONE_TRUNK = ("ivt",)  # methods whose photos and sentences pass through the same layers


def get_config(variant: str = "irra") -> ConfigDict:
    """Raises ValueError for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} of configs/finetune.py, expected one of {VARIANTS}")
    method = "irra" if variant == "quickstart" else variant
    config = importlib.import_module(f"configs.{method}").get_config()
    config.data.name = "manifest"
    config.data.batch_size = 32
    config.data.sampler = "random"

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-5
    config.optimizer.weight_decay = 0.05
    config.optimizer.eps = 1e-8
    # (pattern, learning-rate multiplier, weight decay); 0 freezes what the pattern finds, as in
    # ("^image_encoder/", 0.0, False). The photo tower knows much already and moves slowly.
    config.optimizer.groups = (
        *((("^image_encoder/", 0.3, True),) if method not in ONE_TRUNK else ()),
        ("bias$", 1.0, False),
        (".*", 1.0, True),
    )
    config.schedule = irra.get_config().schedule  # cosine after a linear warm-up
    config.schedule.num_epochs = 10
    config.schedule.warmup_epochs = 1

    config.eval.select_on = "val"
    config.eval.patience = 3

    if variant == "quickstart":
        quickstart(config)

    config.interpolate = ConfigDict()
    config.interpolate.alphas = (0.0, 0.25, 0.5, 0.75, 1.0)  # (): no comparison
    # The data that should not be forgotten; empty: the data of the run that init_from names.
    config.interpolate.old_name = ""
    config.interpolate.old_root = ""
    return config


def quickstart(config: ConfigDict) -> None:
    """For the small IRRA of `configs/irra.py:quickstart`, minutes on a CPU.

    As there, plain contrast with a learned temperature and large steps finds words and clothes that
    the model has never met; the paper's losses are too sharp for that.
    """
    config.model.losses = ("itc",)
    config.model.learn_temperature = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.groups = (("bias$", 1.0, False), (".*", 1.0, True))
    config.schedule.num_epochs = 25
    config.eval.every_epochs = 5
