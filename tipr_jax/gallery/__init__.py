"""Search: from photos and a sentence to a ranking."""
