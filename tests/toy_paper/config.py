"""The toy paper's config file: --config=tests/toy_paper/config.py"""

from ml_collections import ConfigDict

from configs import common
from toy_paper.method import Config


def get_config() -> ConfigDict:
    config = common.get_config()
    config.method = "toy_paper.method"
    config.model = common.model_fields(Config())
    config.data.image_size = (32, 16)
    config.data.text_length = 24
    config.data.vocab = "train"
    config.data.batch_size = config.eval.batch_size = 16
    config.eval.rerank_k = 5
    config.eval.rerank_pairs = 16
    config.log_every_steps = 1
    config.checkpoint.every_steps = 1

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.momentum = 0.9
    config.optimizer.groups = ((".*", 1.0, True),)
    config.schedule = ConfigDict()
    config.schedule.name = "constant"
    config.schedule.num_epochs = 3
    config.schedule.warmup_epochs = 0
    return config
