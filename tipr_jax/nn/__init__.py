"""Blocks that several models share: attention, transformer, image and text towers, fusion."""
