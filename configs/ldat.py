"""Captions in another language: `python -m data_pipelines.ldat`, whose --help shows examples."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = ConfigDict()
    config.data.name = "cuhk_pedes"  # cuhk_pedes | icfg_pedes | rstp_reid | ufine_bench
    config.data.root = ""  # directory that contains CUHK-PEDES/ ...; default $TIPR_DATA, else data/
    config.source = "en"
    config.target = "zh"  # zh | fr | de
    config.splits = "train,val,test"
    config.workdir = ""  # what is finished, and the report; default DATASET/translations/TARGET
    config.output = ""  # where files are exported to; default: beside the source's
    # Captions that are written to the disk together; a crash costs one batch at the most.
    config.batch_size = 64

    # openai | local (a model's folder) | file | grammar (generated data: its own captions)
    config.translator = "openai"
    # lexical | openai, local (the cosine of sentence vectors) | command (COMET, for example)
    config.scorer = "lexical"
    config.rewriter = "openai"  # openai | keep (noisy captions stay as they are)
    # The noise, 1 - quality, above which a caption is rewritten. auto: the mean noise, rounded to
    # 2 digits, which is the paper's rule.
    config.theta = "auto"

    config.openai = _openai()
    config.local = _local()

    config.command = ConfigDict()
    config.command.run = ""  # "comet/bin/python scripts/examples/comet_scores.py"
    config.command.timeout = 600.0  # seconds for a batch; the first one loads the model

    config.file = ConfigDict()
    config.file.path = ""  # JSON lines with source and translation, and image if it depends on it

    config.grammar = ConfigDict()
    config.grammar.noise = 0.0  # the share of captions that get a fault, to measure a scorer
    config.grammar.seed = 0

    config.review = ConfigDict()
    config.review.split = "test"
    config.review.read = ""  # a corrected sheet, to be taken over
    return config


def _openai() -> ConfigDict:
    openai = ConfigDict()
    openai.base_url = "http://127.0.0.1:8000/v1"  # of vLLM, Ollama, llama.cpp, a provider
    openai.model = ""
    openai.rewrite_model = ""  # one that sees images; default: the same
    openai.embedding_model = ""  # of --config.scorer=openai
    openai.embedding_url = ""  # where it is offered; default: base_url
    openai.prompts = ""  # folder with translate.txt, rewrite.txt, examples.tsv; "": ours
    openai.temperature = 0.0
    openai.max_tokens = 400
    openai.concurrency = 16  # requests at a time
    openai.requests_per_minute = 0  # 0: as many as there are
    openai.timeout = 60.0  # seconds for one request
    openai.retries = 6  # when the server is busy, out of order or unreachable
    openai.attempts = 3  # for an answer that is no translation
    return openai


def _local() -> ConfigDict:
    local = ConfigDict()
    local.folder = ""  # of a translation model of Hugging Face's transformers
    local.source_code = ""  # how a model of many languages names the source: eng_Latn, en
    local.target_code = ""  # ... and the target: zho_Hans (NLLB), zh (M2M-100), zh_CN (mBART)
    local.prefix = ""  # before every caption, "translate English to German: " for T5
    local.beams = 4
    local.max_tokens = 200  # of a translation
    local.embeddings = ""  # folder of a sentence encoder, for --config.scorer=local
    local.batch = 16  # texts at a time
    local.device = ""  # of PyTorch; default: a GPU where there is one
    return local
