"""Generated pedestrians with captions, written in the official layouts of real data sets."""
