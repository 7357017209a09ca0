"""A paper that lives outside of the package: all that `tipr_jax` must know of it is `method`.

`method` is the model file, `columns` a column spec of its own with its draws, `config` the config
file, `weights` a converter both ways. tests/test_toy_paper.py runs it through every command.
"""
