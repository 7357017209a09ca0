"""Data sets: official layouts, samplers and input pipelines; the only place that may import TensorFlow."""
