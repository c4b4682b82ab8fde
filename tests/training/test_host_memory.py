import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from signvit_jax.training.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b"x" * sum([64_000_000])  # written and freed; numpy would ask for huge pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(*arguments: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True).stdout.split()


def test_freed_memory_is_used_again_and_not_asked_for_anew():
    kept, faults = run("keep")
    if kept == "False":
        pytest.skip("no glibc")
    (without,) = run("leave")
    assert int(faults) < 0.2 * int(without)
