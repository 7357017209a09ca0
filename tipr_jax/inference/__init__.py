"""Trained models in use: encoders, the matching stage, models as directories."""
