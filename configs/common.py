"""Fields that every method's config shares, with their defaults."""

import dataclasses

from ml_collections import ConfigDict, config_dict

from tipr_jax.models.method import ModelConfig

# Fields of a model's config that the engine sets, from the section `data`.
FROM_DATA = {"image_size", "text_length", "languages", "num_persons"}


def model_fields(config: ModelConfig) -> ConfigDict:
    """The section `model`: every field of the method's config class, whose defaults stand there."""
    section = ConfigDict()
    for field in dataclasses.fields(config):
        if field.name not in FROM_DATA:
            value = getattr(config, field.name)
            # The only optional fields are numbers; a placeholder accepts one from the command line.
            section[field.name] = config_dict.placeholder(float) if value is None else value
    return section


def generate(config: ConfigDict, root: str, train: int, val: int, test: int) -> None:
    """Data of the small variants: generated pedestrians, so many identities, 4 images each."""
    config.data.root = root
    config.data.generate.train_ids = train
    config.data.generate.val_ids = val
    config.data.generate.test_ids = test
    config.data.generate.images_per_id = 4


def get_config() -> ConfigDict:
    """The shared part: data, schedule, mesh, evaluation, checkpoints, logging."""
    config = ConfigDict()
    config.method = ""
    config.seed = 1
    # auto | float32 | bfloat16: matrix products; parameters are float32. float16_released: as the
    # released IRRA trains, float16 without a float32 master copy of parameters and moments. It
    # loses small gradients and updates, so use it only to reproduce the published 73.38.
    config.precision = "auto"
    # What the backward pass computes again instead of keeping it: none (fastest while it fits) |
    # dots (attention and all that is not a product with parameters: a third of the memory, few more
    # FLOPs) | full (all of a layer but its input: the least memory, a third more FLOPs).
    config.remat = "none"
    # auto | xla | grouped (a few heads at a time, whose scores a TPU keeps on its chip) | cudnn
    # (flash attention). auto: cudnn on NVIDIA GPUs in bfloat16, grouped on TPUs.
    config.attention = "auto"
    # Pieces of a batch that pass through the towers one after another: memory of a piece, gradients
    # and negatives of the whole batch, one more forward pass.
    config.micro_batches = 1
    # A directory written by `python -m tipr_jax.convert` or by --mode=export: where training
    # starts from, and what --mode=eval evaluates if --workdir holds no run of its own. Several with
    # commas between them: one after the other, the later over the earlier.
    config.init_from = ""
    # Whose image size, stride and text length hold in training: adopt (init_from's) | resize (this
    # config's; tables of positions are resized) | as_official (this config's; positions are treated
    # as the method's released code does, which may leave them random).
    config.init_positions = "adopt"
    # Overrides of this config for a run in WORKDIR/warm_start that comes first and whose parameters
    # training starts from; empty: none. For models that start from random weights. They may name a
    # warm start, too, which comes before and changes what they make of this config.
    config.warm_start = ConfigDict()
    config.dry_run = False  # check the data set, build everything, run nothing
    config.log_every_steps = 10  # into metrics.jsonl and TensorBoard

    _data(config)

    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1: all devices that `model` leaves
    config.mesh.model = 1
    config.mesh.rules = "data_parallel"  # data_parallel | fully_sharded | tensor_parallel

    _evaluation(config)

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000  # besides one at every evaluation
    config.checkpoint.keep_last = 2
    # A run continues only with the batch size, seed, sampler and annotations that it began with.
    config.checkpoint.accept_changes = False
    return config


def _data(config: ConfigDict) -> None:
    config.data = ConfigDict()
    # cuhk_pedes | icfg_pedes | rstp_reid | ufine_bench (in languages only) | manifest (own photos)
    config.data.name = "cuhk_pedes"
    # Directory that contains CUHK-PEDES/ ..., or the manifest; default $TIPR_DATA, else data/
    config.data.root = ""
    config.data.generate = ConfigDict()  # parameters of synth_pedes; empty: use what is there
    config.data.tfds_dir = ""  # read images from this prepared TFDS copy instead of image files
    # Decode and resize every image once, into a file below cache_dir that later epochs and runs
    # read without TensorFlow; False: tf.data decodes the files each time.
    config.data.cache = True
    config.data.cache_dir = ""  # default: images/ in ~/.cache/tipr_jax
    config.data.allow_truncated = False  # True (released code): read files that end early
    # Captions in languages, en | zh | fr | de, from {split}_reid_{language}.json instead of the
    # official annotation file; all empty: one language, official layout.
    config.data.source = ""
    config.data.target = ""
    config.data.languages = ()  # all of one model, source first; empty: (source, target)
    config.data.empty_captions = "keep"  # keep (released code; a line counts them) | error
    config.data.image_size = (384, 128)
    config.data.train_resize = "bilinear"  # bilinear | bicubic
    config.data.test_resize = "bilinear"  # the same, in evaluation and in searches with the model
    config.data.text_length = 77
    # whole | within_90_words: what the released IVT does to longer captions, in the data sets where
    # it does something (RSTPReid leaves them out, ICFG-PEDES cuts them).
    config.data.long_captions = "whole"
    # Folder of the tokenizer's vocabulary, where it does not come with the package (IVT: a BERT,
    # Bi-IRRA: an XLM-R); "train": one made from the captions. A run keeps it, and hands it on to
    # runs that start there.
    config.data.vocab = ""
    config.data.image_root = ""  # where the paths of a manifest start; "": at its folder
    # With name "manifest", for pre-training: manifests whose captions are pairs of their own with a
    # photo, cleaned as in the released IVT; evaluation reads the data set eval_name at root.
    config.data.caption_lists = ()
    config.data.eval_name = "cuhk_pedes"
    config.data.batch_size = 64  # global, whatever the number of devices
    config.data.sampler = "random"  # random | identity (P persons x num_instances)
    config.data.num_instances = 4
    config.data.last_batch = "pad"  # pad (released: the partial batch is kept) | drop


def _evaluation(config: ConfigDict) -> None:
    config.eval = ConfigDict()
    config.eval.every_epochs = 1
    # Early stopping: after so many evaluations in a row without a better one; 0: never.
    config.eval.patience = 0
    config.eval.batch_size = 128
    config.eval.splits = ("val", "test")  # those the data set has
    # The papers select the epoch by rank-1 on the TEST split; parity keeps that. Use "val" for
    # numbers of your own; the report lists both selections and the last epoch.
    config.eval.select_on = "test"
    # Of the text-to-image ranking, re-ranked where it is; the mean of several: R1+mAP.
    config.eval.select_by = "R1"
    config.eval.ties = "earlier"  # earlier | later (released IVT): which of equal epochs is best

    # Re-ranking, for methods with a matching head: how many candidates by cosine it scores, 0 for
    # none; how many (text, image) pairs at a time, which is what it takes memory for (the published
    # Bi-IRRA: 4.2 MB per pair in float32, 2 to 4 in bfloat16, shared by the devices).
    config.eval.rerank_k = 0
    config.eval.rerank_score = "logit1"  # logit1 (of "match", released) | logit_diff | prob
    config.eval.rerank_pairs = 1024
    # The share of the cosine in the score of a re-ranked candidate: 0 (published), up to 1, or -1:
    # of 0, 0.1 ... 1 the best by mAP on val, in each language. Reported beside the published order.
    config.eval.rerank_mix = 0.0

    # Parity with the released IVT, labelled in every table: "every_second_row" of the test list as
    # gallery (CUHK-PEDES, RSTPReid), and its trapezoidal AP beside the standard one.
    config.eval.gallery = "unique"  # unique: every image once | every_second_row
    config.eval.trapezoid_ap = False
