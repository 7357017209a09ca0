"""Evaluation metrics: `retrieval` (R@k, mAP, mINP), `rerank` (the same after a second stage)."""
