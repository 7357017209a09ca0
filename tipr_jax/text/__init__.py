"""Tokenizers, shared by training and serving: `clip_bpe` (CLIP's byte-level BPE)."""
