"""IVT: the released recipes, and small variants of them.

Variants: cuhk_pedes (default), icfg_pedes, rstp_reid: fine-tuning, starting from converted BERT and
ViT weights (`python -m tipr_jax.convert --method=ivt_init`) or from a pre-training run;
cuhk_pedes_released, icfg_pedes_released, rstp_reid_released: the same with every quirk of the
released runs, starting from both (--config.init_from=weights/ivt_init,runs/pretrain); pretrain:
the image-caption stage before it; quickstart: a small model on generated data, minutes on a CPU;
pretrain_quickstart and finetune_quickstart: the same in the paper's two stages
(scripts/ivt_two_stages.sh); debug: two epochs of a tiny model.
"""

from ml_collections import ConfigDict

from configs import common
from tipr_jax.models.ivt import Config

DATASETS = ("cuhk_pedes", "icfg_pedes", "rstp_reid")
RELEASED = tuple(f"{name}_released" for name in DATASETS)
STAGES = ("pretrain", "pretrain_quickstart", "finetune_quickstart")
VARIANTS = (*DATASETS, *RELEASED, *STAGES, "quickstart", "debug", "mesh_check")

# Plain contrast of images and sentences. The released one, un-normalised at temperature 0.5, is too
# sharp for random weights.
CONTRAST = {
    "losses": ("itc",),
    "levels": ("sentence",),
    "mask": "none",
    "normalise_itc": True,
    "temperature": 0.07,
}


def get_config(variant: str = "cuhk_pedes") -> ConfigDict:
    """Raises ValueError for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} of configs/ivt.py, expected one of {VARIANTS}")
    config = paper()
    if variant in (*DATASETS, *RELEASED):
        config.data.name = variant.removesuffix("_released")
        if config.data.name == "rstp_reid":  # the only fine-tuning without overlapping patches
            config.model.stride = 16
            config.data.batch_size = 48
        if variant in RELEASED:
            released(config)
    else:
        others = (pretrain, quickstart, pretrain_quickstart, finetune_quickstart, debug, mesh_check)
        {function.__name__: function for function in others}[variant](config)
    return config


def paper() -> ConfigDict:
    """The released fine-tuning; see tipr_jax/models/ivt.py for every model field."""
    config = common.get_config()
    config.method = "ivt"
    config.init_positions = "resize"
    config.data.text_length = 100  # longer captions lose their tail; the released code keeps it
    config.data.batch_size = 28  # pairs; every level shows them once more
    config.data.sampler = "identity"
    config.data.train_resize = "bicubic"

    config.eval.select_by = "R1+mAP"

    config.model = common.model_fields(Config())

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # adam (L2 in the gradient) | adamw | sgd
    config.optimizer.learning_rate = 0.005
    config.optimizer.weight_decay = 1e-4
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.momentum = 0.9
    # (pattern, learning-rate multiplier, weight decay); released: everything decays, biases and
    # norms too.
    config.optimizer.groups = (("bias$", 2.0, True), (".*", 1.0, True))

    config.schedule = ConfigDict()
    config.schedule.name = "cosine_unshifted"
    config.schedule.num_epochs = 120
    config.schedule.first_epoch = 1  # 0 (released on ICFG-PEDES and RSTPReid): one epoch more
    config.schedule.warmup_epochs = 5
    config.schedule.start_lr = 5e-5  # absolute, of every group
    config.schedule.target_lr = 1e-5
    return config


def released(config: ConfigDict) -> None:
    """Every quirk of the released runs, for people who reproduce the published numbers.

    Not the released P x K sampler of several GPUs, which splits groups of one person over them.
    """
    config.init_positions = "as_official"
    config.data.long_captions = "within_90_words"
    config.model.redraw_repeats = True
    config.model.scale_crop_padding = False
    config.eval.ties = "later"
    config.eval.trapezoid_ap = True
    if config.data.name == "rstp_reid":  # one GPU
        config.schedule.first_epoch = 0
        config.eval.gallery = "every_second_row"
        return
    config.data.batch_size, config.model.loss_group = 4 * 28, 28
    if config.data.name == "icfg_pedes":
        config.schedule.first_epoch = 0
    else:
        config.eval.gallery = "every_second_row"


def pretrain(config: ConfigDict) -> None:
    """Contrast, matching and masked words on image-caption pairs (released: 8 x 64 pairs a step).

    One text and one view per pair, no removed tokens, patches side by side.
    """
    config.data.name = "manifest"
    config.data.cache = False  # millions of images, read in order of the lists once per epoch
    config.data.text_length = 50
    config.data.batch_size = 512
    config.data.sampler = "random"
    config.data.last_batch = "drop"
    config.model.stride = 16
    config.model.losses = ("itc", "itm", "mlm")
    config.model.levels = ("sentence",)
    config.model.mask = "none"


def finetune_quickstart(config: ConfigDict) -> None:
    """A small IVT on generated pedestrians, sized for two CPU cores."""
    common.generate(config, "data/synth_pedes", train=1500, val=50, test=100)
    config.data.image_size = (96, 32)
    config.data.text_length = 48
    config.data.vocab = "train"
    config.data.batch_size = 128

    config.model.patch = 16
    config.model.stride = 16
    config.model.width = 128
    config.model.depth = 3
    config.model.heads = 2
    config.model.vocab_size = 1024  # of the vocabulary that is trained on the captions
    config.model.max_positions = 64
    config.model.drop_path = 0.0
    config.model.dropout = 0.0
    config.model.fusion_depth = 1
    config.model.fusion_ffn = 256

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.98
    config.optimizer.groups = ((".*", 1.0, True),)
    config.schedule.name = "cosine_per_step"
    config.schedule.num_epochs = 2
    config.schedule.warmup_epochs = 0


def quickstart(config: ConfigDict) -> None:
    """The small IVT from random weights.

    Alone the paper's loss would need the released 120 epochs to find a foothold. So a warm start
    comes first, plain contrast of images and sentences, and multi-level alignment continues from
    there.
    """
    finetune_quickstart(config)
    config.warm_start.data = {"sampler": "random", "last_batch": "drop"}
    config.warm_start.model = CONTRAST
    config.warm_start.optimizer = {"learning_rate": 1e-3}
    config.warm_start.schedule = {"num_epochs": 12, "warmup_epochs": 1, "start_lr": 1e-5}
    config.warm_start.eval = {"every_epochs": 12}


def pretrain_quickstart(config: ConfigDict) -> None:
    """The small model, pre-trained on the same pairs as image-caption pairs without ids."""
    pretrain(config)
    finetune_quickstart(config)
    config.data.caption_lists = ("data/synth_pedes/CUHK-PEDES/pretrain.json",)
    config.data.cache = True
    config.model.update(CONTRAST | {"losses": config.model.losses})
    config.optimizer.learning_rate = 1e-3
    config.schedule.num_epochs = 2
    config.schedule.warmup_epochs = 1
    config.schedule.start_lr = 1e-5


def debug(config: ConfigDict) -> None:
    """Two epochs of a tiny model on a handful of generated identities: does everything run?"""
    finetune_quickstart(config)
    common.generate(config, "data/synth_pedes_debug", train=8, val=4, test=4)
    config.data.batch_size = 16
    config.model.width = 64
    config.model.depth = config.model.heads = 1
    config.schedule.num_epochs = 2


def mesh_check(config: ConfigDict) -> None:
    """For `scripts/check_meshes.py`: every loss, wide enough that four devices share a layer."""
    debug(config)
    config.model.width, config.model.heads = 256, 4
    config.model.fusion_ffn = 512
    config.model.patch = config.model.stride = 8
    config.model.vocab_size = 512
    config.model.losses = ("cmpm", "itc", "itm", "mlm")
    config.model.levels, config.model.mask = ("sentence",), "none"
