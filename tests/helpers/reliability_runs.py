"""Starts, stops and compares runs of the crash harness."""

import csv
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from signvit_jax.checkpoints.reader import CheckpointReader
from tests.helpers import tiny_run

TOTAL = tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS
SAVED = 2 * tiny_run.STEPS_PER_EPOCH  # steps between two checkpoints
# With as many epochs as the fixture `trained` has, so that its compiled programs are used again.
FLAGS = (
    "--config.training.save_every_n_epochs=2",
    "--config.training.eval_every_n_epochs=2",
    "--config.training.num_sample_predictions=0",  # tracing the decoder's loop would take as long as all the rest of a start
    # Clips are drawn anew in each epoch, so that their random stream is held to account too.
    *(
        f"--config.data.augment.{name}={value}"
        for name, value in (("brightness", 0.3), ("frame_jitter", 0.5), ("rotate", 5))
    ),
)
LIMIT_S = (
    400.0  # of one start; a run that takes longer hangs. On an idle machine a start takes 5 s.
)
TIMES = {"train/clips_per_second", "train/frames_per_second", "train/data_wait"}


class Server:
    """The process that all runs are forked from (see traced_training.py)."""

    def __init__(self, cache: Path):
        light = {
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PLATFORMS": "cpu",
        }
        path = str(tiny_run.REPOSITORY)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("traced_training.py"))],
            env=os.environ | light | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict, seconds: float) -> int:
        """Raises TimeoutError."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer(seconds)

    def answer(self, seconds: float) -> int:
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"no answer in {seconds:.0f} s")
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()


@dataclasses.dataclass
class Run:
    """One run in its workdir, however often it is stopped and started again. The last start's process is `process`."""

    server: Server
    config: Path
    workdir: Path
    flags: tuple[str, ...] = FLAGS
    name: str = "run"  # of its files beside the workdir

    @property
    def trace(self) -> Path:
        return self.workdir.with_name(f"{self.name}.trace")

    @property
    def output(self) -> Path:
        return self.workdir.with_name(f"{self.name}.output")

    def start(
        self,
        *flags: str,
        fault: dict | None = None,
        mounts=(),
        keep: Path | None = None,
        output: str = "",
        **environment: str,
    ) -> None:
        """`mounts` are seen by the run alone; `keep` is where its workdir, if that is on one of them, is copied to at the end.

        `output`: a terminal in place of the file.
        """
        argv = [f"--config={self.config}", f"--workdir={self.workdir}", *self.flags, *flags]
        files = {
            "trace": str(self.trace),
            "output": output or str(self.output),
            "keep": keep and [str(self.workdir), str(keep)],
        }
        self.process = self.server.ask(
            {"argv": argv, "environment": environment, "fault": fault, "mounts": mounts, **files},
            LIMIT_S,
        )

    def wait(self, seconds: float = LIMIT_S) -> int:
        """The exit code. A run that has not ended by then is killed, and TimeoutError raised."""
        try:
            return self.server.ask({"wait": self.process}, seconds)
        except TimeoutError:
            os.killpg(self.process, signal.SIGKILL)
            self.server.answer(60)
            raise TimeoutError(
                f"the run did not end in {seconds:.0f} s; it said:\n{self.said()[-2000:]}"
            ) from None

    def go(self, *flags: str, **start) -> int:
        self.start(*flags, **start)
        return self.wait()

    def since_signal(self) -> float:
        """Seconds since the last signal of the fault was sent."""
        return time.monotonic() - float(self.trace.with_suffix(".signalled").read_text())

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def steps(self) -> list[int]:
        return CheckpointReader(self.workdir / "checkpoints").steps()


def kill(phase: str, count: int = 1, after: float = 0.0, hang: float = 0.0) -> dict:
    """A fault: SIGKILL, so many seconds after the run has come to the phase for the so-manieth time, of "step" to that step."""
    return {"phase": phase, "count": count, "signals": [[after, signal.SIGKILL]], "hang": hang}


def batches(run: Run) -> dict[int, set[tuple]]:
    """Step -> what its batch was, each time that it was taken."""
    found: dict[int, set[tuple]] = {}
    for line in run.trace.read_text().splitlines():
        step, clips, digest = json.loads(line)
        found.setdefault(step, set()).add((tuple(clips), digest))
    return found


def figures(run: Run) -> list[dict[str, str]]:
    """metrics.csv as it is written, without the columns that are about time."""
    with (run.workdir / "metrics.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]


def final_state(run: Run) -> dict[str, bytes]:
    """Every array of the last checkpoint (parameters, average, optimizer, step) and its data position, byte for byte."""
    folder = run.workdir / "checkpoints" / str(run.steps()[-1])
    state = {path.name: path.read_bytes() for path in (folder / "data_iterator").glob("process_*")}
    for item in ("params", "ema", "opt_state"):
        saved = ocp.StandardCheckpointHandler().metadata(folder / item).tree
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
        with ocp.StandardCheckpointer() as reader:
            arrays = reader.restore(folder / item, target)
        for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
            state[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return state


def assert_same_run(run: Run, undisturbed: Run) -> None:
    """Steps, losses, batches, parameters, optimizer state and positions: all as in the run that was left alone."""
    assert run.steps()[-1] == undisturbed.steps()[-1] == TOTAL
    assert figures(run) == figures(undisturbed)
    ours, theirs = batches(run), batches(undisturbed)
    assert ours.keys() == theirs.keys() == set(range(1, TOTAL + 1))
    assert ours == theirs  # also those of lost steps: made again, they are what they were
    a, b = final_state(run), final_state(undisturbed)
    assert a.keys() == b.keys() and len(a) > 50
    assert [name for name in a if a[name] != b[name]] == []


def can_mount() -> bool:
    return (
        subprocess.run(
            ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


def processes_of_session(number: int) -> list[int]:
    """Processes, zombies left out, of a run's session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())
