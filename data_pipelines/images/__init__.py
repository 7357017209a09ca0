"""Where the pixels of a split come from."""
