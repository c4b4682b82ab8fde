"""Every program that the steps of a run need is compiled before the first of them."""

import re

import pytest

from signvit_jax.commands import train
from signvit_jax.planning import memory
from signvit_jax.training import trainer
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")

# Clips of 8 to 12 frames: none for the first bucket.
BUCKETS = [
    "--config.data.sampling=rate",
    "--config.data.frame_rate=10",
    "--config.data.num_frames=12",
    "--config.data.frame_buckets=(7,9,12)",
]


@pytest.fixture
def events(monkeypatch):
    """What is compiled and what is run, in order: ("compile" or "step", frames)."""
    found = []

    class Watched(trainer.CompiledSteps):
        def compile(self, state, batch):
            found.append(("compile", batch["video"].shape[1]))
            return super().compile(state, batch)

        def __call__(self, state, batch):
            found.append(("step", batch["video"].shape[1]))
            before = self._step._cache_size()
            result = super().__call__(state, batch)
            assert (
                self._step._cache_size() == before == 0
            )  # of the programs that jax.jit compiles at a call
            return result

    monkeypatch.setattr(trainer, "CompiledSteps", Watched)
    monkeypatch.setattr(
        trainer.Trainer, "_finish_epoch", lambda *_: False
    )  # evaluation compiles programs of its own
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


def test_buckets_that_occur_are_compiled_before_the_first_step_the_longest_first(
    trained, tmp_path, events
):
    assert start(trained, tmp_path, "--config.training.num_epochs=1") == 0
    assert events[:2] == [("compile", 12), ("compile", 9)]
    assert sorted(events[2:]) == [("step", 9), ("step", 12), ("step", 12)]
    log = (tmp_path / "run.log").read_text()
    assert re.search(
        r"compiling the training step for clips of 12 frames, 9 frames\n(.*\n)*.*compiled in [\d.]+ s",
        log,
    )


@pytest.mark.long
def test_the_programs_of_both_sides_of_a_thaw_are_compiled_before_the_first_step(
    trained, tmp_path, events
):
    assert (
        start(
            trained,
            tmp_path,
            "--config.training.num_epochs=2",
            "--config.model.encoder.freeze_epochs=1",
        )
        == 0
    )
    assert events[:4] == [("compile", 12), ("compile", 12), ("compile", 9), ("compile", 9)]
    assert {kind for kind, _ in events[4:]} == {"step"} and len(events) == 10
    said = "clips of 12 frames, 12 frames (backbone frozen), 9 frames, 9 frames (backbone frozen)"
    assert said in (tmp_path / "run.log").read_text()


def test_a_step_that_needs_more_than_the_device_has_is_refused_before_it_is_made(
    trained, tmp_path, events, monkeypatch, capfd
):
    monkeypatch.setattr(memory, "memory_limit", lambda: 2**16)
    assert start(trained, tmp_path, "--config.training.num_epochs=1") == 5
    assert events == [("compile", 12)]  # the longest tells
    said = capfd.readouterr().err
    assert "out of memory: a step needs 0.00 GiB of each device" in said
    assert (
        "2 batches" in said
        and "1. --config.training.gradient_accumulation" in said
        and "Traceback" not in said
    )
