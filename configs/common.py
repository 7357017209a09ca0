"""Fields that every method's config shares, with their defaults."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The shared part: data, schedule, mesh, evaluation, checkpoints, logging."""
    config = ConfigDict()
    config.method = ""
    config.seed = 1
    config.precision = "auto"  # auto | float32 | bfloat16: matrix products; parameters are float32
    # A directory written by `python -m tipr_jax.convert` or by --mode=export: where training
    # starts from, and what --mode=eval evaluates if --workdir holds no run of its own.
    config.init_from = ""
    # Overrides of this config for a run in WORKDIR/warm_start that comes first and whose parameters
    # training starts from; empty: none. For models that start from random weights.
    config.warm_start = ConfigDict()
    config.dry_run = False  # check the data set, build everything, run nothing
    config.log_every_steps = 10  # into metrics.jsonl and TensorBoard

    config.data = ConfigDict()
    config.data.name = "cuhk_pedes"  # cuhk_pedes | icfg_pedes | rstp_reid
    config.data.root = ""  # directory that contains CUHK-PEDES/ ...; default $TIPR_DATA, else data/
    config.data.generate = ConfigDict()  # parameters of synth_pedes; empty: use what is there
    config.data.tfds_dir = ""  # read images from this prepared TFDS copy instead of image files
    config.data.cache_mb = 1024  # hold the resized images of a split in memory up to this size
    config.data.allow_truncated = False  # True (released code): read files that end early
    config.data.image_size = (384, 128)
    config.data.text_length = 77
    config.data.batch_size = 64  # global, whatever the number of devices
    config.data.sampler = "random"  # random | identity (P persons x num_instances)
    config.data.num_instances = 4
    config.data.last_batch = "pad"  # pad (released: the partial batch is kept) | drop

    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1: all devices that `model` leaves
    config.mesh.model = 1
    config.mesh.rules = "data_parallel"  # data_parallel | fully_sharded | tensor_parallel

    config.eval = ConfigDict()
    config.eval.every_epochs = 1
    config.eval.batch_size = 128
    config.eval.splits = ("val", "test")  # those the data set has
    # The papers select the epoch by rank-1 on the TEST split; parity keeps that. Use "val" for
    # numbers of your own; the report lists both selections and the last epoch.
    config.eval.select_on = "test"

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000  # besides one at every evaluation
    config.checkpoint.keep_last = 2
    return config
