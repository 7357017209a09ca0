"""Run configurations: `get_config(variant)` returns plain data; `--config.any.field=value` changes it."""
