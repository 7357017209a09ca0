"""tipr_jax: text-to-image person retrieval in JAX/Flax. Start at `main.py` (command line) or `trainer.py` (the loop)."""

__version__ = "0.1.0"
