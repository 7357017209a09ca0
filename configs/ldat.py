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

    config.translator = "openai"  # openai | file | grammar (generated data: its own captions)
    config.scorer = "lexical"
    config.rewriter = "openai"  # openai | keep (noisy captions stay as they are)
    # The noise, 1 - quality, above which a caption is rewritten. auto: the mean noise, rounded to
    # 2 digits, which is the paper's rule.
    config.theta = "auto"

    config.openai = ConfigDict()
    config.openai.base_url = "http://127.0.0.1:8000/v1"  # of vLLM, Ollama, llama.cpp, a provider
    config.openai.model = ""
    config.openai.rewrite_model = ""  # one that sees images; default: the same
    config.openai.prompts = ""  # folder with translate.txt, rewrite.txt, examples.tsv; "": ours
    config.openai.temperature = 0.0
    config.openai.max_tokens = 400
    config.openai.concurrency = 16  # requests at a time
    config.openai.requests_per_minute = 0  # 0: as many as there are
    config.openai.timeout = 60.0  # seconds for one request
    config.openai.retries = 6  # when the server is busy, out of order or unreachable
    config.openai.attempts = 3  # for an answer that is no translation

    config.file = ConfigDict()
    config.file.path = ""  # JSON lines with source and translation, and image if it depends on it

    config.grammar = ConfigDict()
    config.grammar.noise = 0.0  # the share of captions that get a fault, to measure a scorer
    config.grammar.seed = 0

    config.review = ConfigDict()
    config.review.split = "test"
    config.review.read = ""  # a corrected sheet, to be taken over
    return config
