"""Memory that a process frees and takes again, with glibc's allocator tuned for that."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from signvit_jax.runtime.malloc import tune_malloc
if sys.argv[1] == "tuned":
    print(tune_malloc())
def allocate():
    for _ in range(20):
        # Each object is written and freed. numpy would ask for huge pages, which have few faults.
        b"x" * sum([96_000_000])
def allocate_in_a_thread():
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
for function in (allocate, allocate_in_a_thread):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    function()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(*arguments: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    ).stdout.split()


def test_freed_memory_is_reused_without_page_faults():
    """The main thread and another thread reuse it; XLA works in other threads."""
    is_tuned, *tuned_faults = run("tuned")
    if is_tuned == "False":
        pytest.skip("no glibc")
    for tuned, untuned in zip(tuned_faults, run("untuned"), strict=True):
        assert int(tuned) < 0.2 * int(untuned)
