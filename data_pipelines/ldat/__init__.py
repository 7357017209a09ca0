"""Captions in other languages: translate, score, rewrite what scores badly, export, review.

The pipeline LDAT of Bi-IRRA (TPAMI 2025, section "LLM-driven data"; no code was released). Per
caption and target language:

  translate   a `Translator` turns the source caption into the target language
  score       a `QualityScorer` gives the pair a quality in 0..1; noise = 1 - quality
  rewrite     a `Rewriter` translates again, with the image, what is noisier than the threshold
  export      clean and rewritten captions as {split}_reid_{language}.json, beside the source's
  review      a sheet in which a person corrects a split, and the way back (the authors checked
              their test splits by hand)

  python -m data_pipelines.ldat run --config.data.root=/data --config.target=zh

Stages are separate commands. What a stage has finished stands in an append-only file of its own, a
line per caption under a hash of all that decides the answer (`journal.py`), so that a stop or a
crash costs one batch at the most, and another model, prompt or caption is work of its own. What
failed stands in *.failures.jsonl and is tried again at the next call. Captions stream: in memory
are a batch and, at the peak, some 120 bytes per caption (172 MB for a million).

Where is what: `interfaces.py` (the three roles), `registry.py` (their names), `work.py` (files and
keys of a job), `stages.py`, `outcome.py` (threshold, which text becomes final), `export.py`,
`report.py`, `review.py`; `ray_engine.py` and `ray_worker.py` (--engine=ray).

Backends: `endpoint.py` (any OpenAI-compatible server, through `connection.py`), `ready_file.py`,
`local_translator.py` (a model's folder: `local_folder.py`, `batching.py`), `generated.py` (the
generator's own captions, with faults on purpose: `faults.py`); scorers: `lexical.py`,
`embeddings.py` (cosines), `command_scorer.py` (another program, as COMET).
"""
