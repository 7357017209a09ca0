"""Bi-IRRA: the published recipe, its honest baseline, and small variants of it.

Variants: cuhk_pedes (default), icfg_pedes, rstp_reid, ufine_bench: the paper's runs, English and
one target language, starting from X2-VLM; x2vlm: the same start fine-tuned with contrast and
matching alone; quickstart: a small model on generated data, minutes on a CPU;
quickstart_pretrained: the same behind a pre-training of its own, an estimated 70
minutes on two CPU cores; debug: one epoch of a tiny model.
"""

from ml_collections import ConfigDict

from configs import common
from tipr_jax.models.bi_irra.config import Config

DATASETS = ("cuhk_pedes", "icfg_pedes", "rstp_reid", "ufine_bench")
VARIANTS = (
    *DATASETS,
    "x2vlm",
    "quickstart",
    "quickstart_pretrained",
    "debug",
    "mesh_check",
)


def get_config(variant: str = "cuhk_pedes") -> ConfigDict:
    """Raises ValueError for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} of configs/bi_irra.py, expected one of {VARIANTS}")
    config = paper()
    if variant in DATASETS:
        config.data.name = variant
        if variant == "ufine_bench":  # captions of about 80 words
            config.data.text_length = 168
            config.data.batch_size = 64
            config.model.itm_group_size = 16
    else:
        changes = (x2vlm, quickstart, quickstart_pretrained, debug, mesh_check)
        {change.__name__: change for change in changes}[variant](config)
    return config


def paper() -> ConfigDict:
    """The released defaults; see tipr_jax/models/bi_irra.py for every model field."""
    config = common.get_config()
    config.method = "bi_irra"
    config.data.source = "en"
    config.data.target = "zh"  # zh | fr | de
    # Beyond the paper: config.data.languages = ("en", "zh", "fr", "de"), several targets at once.
    config.data.test_resize = "bicubic"
    config.data.image_size = (224, 224)
    config.data.text_length = 77
    config.data.batch_size = 128  # released: 4 GPUs x 32, which are the groups of itm_group_size
    config.data.last_batch = "drop"

    config.model = common.model_fields(Config())

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # adam (L2 in the gradient) | adamw | sgd
    config.optimizer.learning_rate = 5e-5
    config.optimizer.weight_decay = 0.02
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-8
    config.optimizer.momentum = 0.9
    # (pattern, learning-rate multiplier, weight decay); vectors and the tables of the relative
    # positions do not decay.
    config.optimizer.groups = (
        ("(bias|scale|gamma_[12]|temperature)$", 1.0, False),
        (".*", 1.0, True),
    )

    config.schedule = ConfigDict()
    config.schedule.name = "cosine_per_step"
    config.schedule.num_epochs = 10
    config.schedule.warmup_epochs = 1
    config.schedule.start_lr = 1e-6  # absolute, where the warm-up begins
    config.schedule.target_lr = 5e-6  # absolute, where the cosine ends

    config.eval.rerank_k = 256  # candidates by cosine that the matching head scores; 0: none
    return config


def x2vlm(config: ConfigDict) -> None:
    """X2-VLM fine-tuned with bilingual contrast and matching: within two points of the paper."""
    config.model.losses = ("itc", "itm")
    config.model.itm_mask_target = "none"


def quickstart(config: ConfigDict) -> None:
    """A small Bi-IRRA from random weights on generated pedestrians, sized for two CPU cores.

    A warm start with contrast alone comes first: matching and masked words find a foothold only in
    features that already tell people apart.
    """
    common.generate(config, "data/synth_pedes_multilingual", train=1000, val=50, test=100)
    config.data.image_size = (96, 48)
    config.data.text_length = 40
    config.data.vocab = "train"
    config.data.batch_size = 32

    config.model.patch = 12
    config.model.width = 128
    config.model.vision_depth = 3
    config.model.vision_heads = 2
    config.model.drop_path = 0.0
    config.model.layer_scale = 1.0  # three blocks need no damping
    config.model.text_depth = 2
    config.model.text_heads = 2
    config.model.text_ffn = 256
    config.model.vocab_size = 2000  # of the tokenizer that is trained on the captions
    config.model.max_positions = 64
    config.model.dropout = 0.0
    config.model.fusion_depth = 2  # first words read the image, then token 0 reads them
    config.model.embed_dim = 128
    config.model.itc_feature_grad_scale = 1.0
    # An untrained matching head learns nothing from the hardest of 31 negatives, but from the
    # hardest of 3.
    config.model.itm_group_size = 4

    config.optimizer.learning_rate = 7e-4
    config.optimizer.weight_decay = 0.05
    # The only thing that tells the image tower where a patch is starts at zero.
    config.optimizer.groups = (("position_bias$", 10.0, False), *config.optimizer.groups)
    config.schedule.num_epochs = 3
    config.schedule.warmup_epochs = 0
    config.schedule.target_lr = 1e-5

    config.warm_start.data = {"batch_size": 64}
    config.warm_start.model = {"losses": ("itc",)}
    config.warm_start.optimizer = {"learning_rate": 1e-3}
    config.warm_start.schedule = {"num_epochs": 10, "warmup_epochs": 1, "start_lr": 1e-4}
    config.warm_start.eval = {"every_epochs": 10}
    config.eval.rerank_k = 32
    config.eval.every_epochs = 3


def quickstart_pretrained(config: ConfigDict) -> None:
    """The quickstart behind a pre-training of its own, the part that X2-VLM has in the paper.

    On 4,000 other people: contrast, then matching with easy negatives until the head has a
    foothold, then with the hardest of the batch, then the same on pictures as they are. Last, on
    the people of the quickstart, the same again; masked words and patches would cost a third of its
    time and changed nothing beyond the seeds' spread, see tipr_jax/models/README.md.
    """
    quickstart(config)
    config.data.generate.seed = 0
    # A script without spaces fills a larger vocabulary with whole phrases ("and grey jeans" as one
    # piece), whose colours and clothes nothing shares. The quickstart is too short to gain from it.
    config.model.vocab_size = 900
    config.data.text_length = 44
    contrast = config.warm_start.to_dict()
    contrast["schedule"] |= {"num_epochs": 2, "target_lr": 1e-5}
    contrast["eval"] = {"every_epochs": 2}
    easy = {
        "model": {"itm_group_size": 4},
        "optimizer": {"learning_rate": 7e-4},
        "schedule": {"num_epochs": 1, "target_lr": 4e-4},
        "eval": {"every_epochs": 1, "rerank_k": 0},
        "warm_start": contrast,
    }
    hard = {
        "model": {"itc_feature_grad_scale": 1.0, "augment": True},
        "schedule": {"num_epochs": 2},
        "eval": {"every_epochs": 2},
        # Enough checkpoints for the curves of scripts/match_curves.py.
        "checkpoint": {"every_steps": 500, "keep_last": 10},
        "warm_start": easy,
    }
    config.warm_start = {
        "data": {
            "root": "data/synth_pedes_pretraining",
            "generate": {"train_ids": 4000, "seed": 100},
        },
        "optimizer": {"learning_rate": 5e-4},
        "schedule": {"num_epochs": 1, "target_lr": 5e-5},
        "eval": {"every_epochs": 1},
        "warm_start": hard,
    }
    config.model.losses = ("itc", "itm")
    config.model.itm_group_size = 32
    config.model.itc_feature_grad_scale = 0.25  # as published
    config.model.augment = False  # what differs between near twins must stay in the picture
    # Published: "image", matching in the target language sees masked images alone in training.
    config.model.itm_mask_target = "none"
    config.optimizer.learning_rate = 3e-4
    config.schedule.num_epochs = 2
    config.eval.every_epochs = 2
    config.eval.rerank_mix = -1.0  # reported beside the published order


def debug(config: ConfigDict) -> None:
    """One epoch of a tiny model on a handful of generated identities: does everything run?"""
    quickstart(config)
    common.generate(config, "data/synth_pedes_multilingual_debug", train=8, val=4, test=4)
    config.data.batch_size = 16
    config.model.width = config.model.embed_dim = 64
    config.model.text_ffn = 64
    config.model.vision_heads = config.model.text_heads = 1
    config.model.vision_depth = config.model.text_depth = config.model.fusion_depth = 1
    config.model.itm_group_size = 8
    config.schedule.num_epochs = 1
    config.eval.every_epochs = 1
    config.warm_start = ConfigDict()


def mesh_check(config: ConfigDict) -> None:
    """For `scripts/check_meshes.py`: every loss, wide enough that four devices share a layer."""
    debug(config)
    config.model.width = config.model.embed_dim = 256
    config.model.vision_heads = config.model.text_heads = 4
    config.model.text_ffn = 512
    config.model.patch = 8
    config.model.vocab_size = 512
    config.model.losses = ("itc", "itm", "mlm", "mim", "sdm", "id")
    config.model.itm_group_size = 8
