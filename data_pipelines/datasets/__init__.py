"""Data sets as they lie on disk: layouts, annotation files, languages, lists of pairs."""
