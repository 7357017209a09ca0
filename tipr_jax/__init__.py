"""Text-to-image person retrieval. Start at `main.py` (command line) or `trainer.py` (the loop)."""

__version__ = "0.1.0"
