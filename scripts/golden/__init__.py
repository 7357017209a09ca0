"""Comparisons with golden arrays, one module per method."""
