"""Evaluation metrics: `retrieval` (R@k, mAP, mINP)."""
