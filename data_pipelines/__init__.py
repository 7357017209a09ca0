"""Data sets: layouts, samplers, input pipelines; the only place that may import TensorFlow."""
