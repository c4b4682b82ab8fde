"""All programs of a run's steps are compiled before the first step."""

import re

import pytest

from signvit_jax.commands import train
from signvit_jax.optimization.compiling_ahead import CompiledSteps
from signvit_jax.planning import memory
from signvit_jax.training import step_programs, train_loop
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")

# The clips have 8 to 12 frames, so the first bucket has no clips.
BUCKETS = [
    "--config.data.sampling=rate",
    "--config.data.frame_rate=10",
    "--config.data.num_frames=12",
    "--config.data.frame_buckets=(7,9,12)",
]


@pytest.fixture
def events(monkeypatch):
    """The programs that are compiled and run, in order: ("compile" or "step", frames)."""
    found = []

    class RecordedSteps(CompiledSteps):
        def compile(self, state, batch):
            found.append(("compile", batch["video"].shape[1]))
            return super().compile(state, batch)

        def __call__(self, state, batch):
            found.append(("step", batch["video"].shape[1]))
            before = self._step._cache_size()
            result = super().__call__(state, batch)
            # The call did not make jax.jit compile the step.
            assert self._step._cache_size() == before == 0
            return result

    monkeypatch.setattr(step_programs, "CompiledSteps", RecordedSteps)
    # Without validation, which compiles other programs.
    monkeypatch.setattr(train_loop, "_eval_is_due", lambda *_: False)
    return found


def start(trained, workdir, *flags):
    return tiny_run.command(
        train.main,
        f"--config={trained.config}",
        f"--workdir={workdir}",
        "--config.training.eval_every_n_epochs=9",
        *BUCKETS,
        *flags,
    )


@pytest.mark.long
def test_used_buckets_are_compiled_before_step_1_the_longest_first(trained, tmp_path, events):
    assert start(trained, tmp_path, "--config.training.num_epochs=1") == 0
    assert events[:2] == [("compile", 12), ("compile", 9)]
    assert sorted(events[2:]) == [("step", 9), ("step", 12), ("step", 12)]
    log = (tmp_path / "run.log").read_text()
    begin = r"compiling the training step for clips of 12 frames, 9 frames\n"
    assert re.search(begin + r"(.*\n)*.*compiled in [\d.]+ s", log)


@pytest.mark.long
def test_programs_with_a_frozen_backbone_are_compiled_ahead_too(trained, tmp_path, events):
    flags = ("--config.training.num_epochs=2", "--config.model.encoder.freeze_epochs=1")
    assert start(trained, tmp_path, *flags) == 0
    assert events[:4] == [("compile", 12), ("compile", 12), ("compile", 9), ("compile", 9)]
    assert {kind for kind, _ in events[4:]} == {"step"} and len(events) == 10
    message = "of 12 frames, 12 frames (backbone frozen), 9 frames, 9 frames (backbone frozen)"
    assert message in (tmp_path / "run.log").read_text()


def test_a_step_too_large_for_the_device_is_refused_beforehand(
    trained, tmp_path, events, monkeypatch, capfd
):
    monkeypatch.setattr(memory, "memory_limit", lambda mesh: 2**16)
    assert start(trained, tmp_path, "--config.training.num_epochs=1") == 5
    assert events == [("compile", 12)]  # the largest program, compiled first, is already too large
    message = capfd.readouterr().err
    assert "out of memory: a step needs 0.00 GiB of each device" in message
    assert "2 batches" in message and "1. --config.training.gradient_accumulation" in message
    assert "Traceback" not in message
