import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from signvit_jax.runtime.malloc import tune_malloc
if sys.argv[1] == "keep":
    print(tune_malloc())
def work():
    for _ in range(20):
        b"x" * sum([96_000_000])  # written and freed; numpy would ask for huge pages
def in_a_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
for way in (work, in_a_thread):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    way()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(*arguments: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    ).stdout.split()


def test_freed_memory_is_reused_without_page_faults():
    """In the main thread and in another, as XLA's are."""
    kept, *faults = run("keep")
    if kept == "False":
        pytest.skip("no glibc")
    for found, without in zip(faults, run("leave"), strict=True):
        assert int(found) < 0.2 * int(without)
