"""The names of the programs that JAX compiles."""

import contextlib
import logging
import re
from collections.abc import Iterator

import jax
import pytest


@contextlib.contextmanager
def compiled_programs(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect the names of programs that are compiled or read from the cache in the block.

    A name is jit(FUNCTION); the list is filled at the end of the block.
    """
    names: list[str] = []
    before = len(caplog.records)
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.INFO, logger="jax"):
            yield names
    finally:
        jax.config.update("jax_log_compiles", False)
    for record in caplog.records[before:]:
        if found := re.search(r"Finished XLA compilation of (\S+)", record.getMessage()):
            names.append(found[1])
