"""The rule by which several processes agree when to stop or save, tested in one process.

In tests/reliability/test_several_processes.py two real processes stop at the same step.
"""

import signal
from types import SimpleNamespace

import jax
import pytest

from signvit_jax.runtime.consensus import StopConsensus


@pytest.fixture
def stop():
    return SimpleNamespace(received=0)


def test_one_process_decides_immediately(stop):
    consensus = StopConsensus(stop)
    assert not consensus.save_is_due
    consensus.poll(save_is_due=True)
    assert consensus.save_is_due and not consensus.stopping and consensus.exit_code == 0
    consensus.mark_saved()
    assert not consensus.save_is_due
    consensus.poll()
    assert not consensus.save_is_due
    stop.received = signal.SIGUSR1  # without a poll in between
    assert (
        consensus.stopping and consensus.received == signal.SIGUSR1 and consensus.exit_code == 143
    )


@pytest.fixture
def several(stop, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return StopConsensus(stop)


def test_several_processes_stop_two_polls_after_the_signal(several, stop):
    for _ in range(5):
        several.poll()
    stop.received = signal.SIGINT
    seen = []
    for _ in range(5):
        several.poll()
        seen.append(several.stopping)
    assert seen == [False, False, True, True, True]
    assert several.exit_code == 130


def test_several_processes_save_once_for_a_lasting_save_request(several):
    saves = []
    due = True
    for step in range(14):
        due = due or step == 8
        several.poll(save_is_due=due)
        if several.save_is_due:
            saves.append(step)
            several.mark_saved()
            due = False
    assert saves == [StopConsensus.LAG, 8 + StopConsensus.LAG]
