"""The rule by which several processes agree, on one; that two real ones stop at the same step is in tests/reliability/test_several_processes.py."""

import signal
from types import SimpleNamespace

import jax
import pytest

from signvit_jax.runtime.consensus import StopConsensus


@pytest.fixture
def stop():
    return SimpleNamespace(received=0)


def test_one_process_agrees_with_itself_at_once(stop):
    agreement = StopConsensus(stop)
    assert not agreement.save_is_due
    agreement.poll(save_is_due=True)
    assert agreement.save_is_due and not agreement.stopping and agreement.exit_code == 0
    agreement.saved()
    assert not agreement.save_is_due
    agreement.poll()
    assert not agreement.save_is_due
    stop.received = signal.SIGUSR1  # without a poll in between
    assert (
        agreement.stopping and agreement.received == signal.SIGUSR1 and agreement.exit_code == 143
    )


@pytest.fixture
def several(stop, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return StopConsensus(stop)


def test_several_stop_two_polls_after_the_signal_and_keep_to_it(several, stop):
    for _ in range(5):
        several.poll()
    stop.received = signal.SIGINT
    seen = []
    for _ in range(5):
        several.poll()
        seen.append(several.stopping)
    assert seen == [False, False, True, True, True]
    assert several.exit_code == 130


def test_several_save_once_for_a_wish_that_lasts_until_the_save(several):
    saves, due = [], True
    for step in range(14):
        due = due or step == 8
        several.poll(save_is_due=due)
        if several.save_is_due:
            saves.append(step)
            several.saved()
            due = False
    assert saves == [StopConsensus.LAG, 8 + StopConsensus.LAG]
