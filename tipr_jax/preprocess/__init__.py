"""Image preprocessing on the host, shared by training, evaluation and serving."""
