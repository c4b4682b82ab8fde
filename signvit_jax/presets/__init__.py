"""Configs by name: `--config=small`. Each module defines `get_config()` and says what it needs."""
