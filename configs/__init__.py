"""Run configurations: `get_config(variant)` gives plain data, changed by `--config.field=value`."""
