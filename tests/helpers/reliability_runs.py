"""Start, stop and compare runs of the crash harness."""

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
# The number of epochs is that of the fixture `trained`, so that its compiled programs are reused.
FLAGS = (
    "--config.training.save_every_n_epochs=2",
    "--config.training.eval_every_n_epochs=2",
    # No samples: tracing the decoder's loop would take as long as the rest of a start.
    "--config.training.num_sample_predictions=0",
    # Augmentation differs in each epoch, so that the position of its random stream is compared too.
    *(
        f"--config.data.augment.{name}={value}"
        for name, value in (("brightness", 0.3), ("frame_jitter", 0.5), ("rotate", 5))
    ),
)
# Seconds after which a run counts as hanging. On an idle machine a start takes 5 s.
LIMIT_S = 400.0
TIMES = {"train/clips_per_second", "train/frames_per_second", "train/data_wait"}


class Server:
    """The server process, from which all runs are forked (see traced_training.py)."""

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
        """Send a request and return the answer. Raises TimeoutError after `seconds`."""
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
            self.process.stdout.close()


@dataclasses.dataclass
class Run:
    """A run in its workdir, which may be stopped and restarted any number of times.

    `process` is the process id of the last start.
    """

    server: Server
    config: Path
    workdir: Path
    flags: tuple[str, ...] = FLAGS
    name: str = "run"  # names the trace and output files next to the workdir

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
        """Start the run.

        `mounts`: file systems that only the run sees. `keep`: a folder to which the workdir is
        copied at the end, if it is on such a file system. `output`: a terminal to use as output.
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
        """Return the exit code. After `seconds`, kill the run and raise TimeoutError."""
        try:
            return self.server.ask({"wait": self.process}, seconds)
        except TimeoutError:
            os.killpg(self.process, signal.SIGKILL)
            self.server.answer(60)
            raise TimeoutError(
                f"the run did not end in {seconds:.0f} s; its messages:\n{self.messages()[-2000:]}"
            ) from None

    def go(self, *flags: str, **start) -> int:
        """Start the run, wait for its end, and return the exit code."""
        self.start(*flags, **start)
        return self.wait()

    def since_signal(self) -> float:
        """Return the seconds since the fault's last signal."""
        return time.monotonic() - float(self.trace.with_suffix(".signaled").read_text())

    def messages(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def steps(self) -> list[int]:
        return CheckpointReader(self.workdir / "checkpoints").steps()


def kill(phase: str, count: int = 1, after: float = 0.0, hang: float = 0.0) -> dict:
    """Return a fault: SIGKILL `after` seconds after the run enters `phase` for the `count`-th time.

    For the phase "step", `count` is the number of the step. `hang`: seconds that the run then stays
    in the phase.
    """
    return {"phase": phase, "count": count, "signals": [[after, signal.SIGKILL]], "hang": hang}


def batches(run: Run) -> dict[int, set[tuple]]:
    """Return step -> its different batches; a step that replays the same batch has one."""
    found: dict[int, set[tuple]] = {}
    for line in run.trace.read_text().splitlines():
        step, clips, digest = json.loads(line)
        found.setdefault(step, set()).add((tuple(clips), digest))
    return found


def figures(run: Run) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the columns that depend on time."""
    with (run.workdir / "metrics.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]


def final_state(run: Run) -> dict[str, bytes]:
    """Return the bytes of all arrays of the last checkpoint and of its data iterators' state."""
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
    """Check that two runs have equal losses, batches, parameters, optimizers and data positions."""
    assert run.steps()[-1] == undisturbed.steps()[-1] == TOTAL
    assert figures(run) == figures(undisturbed)
    ours, theirs = batches(run), batches(undisturbed)
    assert ours.keys() == theirs.keys() == set(range(1, TOTAL + 1))
    assert ours == theirs  # replayed steps had the same batches too
    state, expected = final_state(run), final_state(undisturbed)
    assert state.keys() == expected.keys() and len(state) > 50
    assert [name for name in state if state[name] != expected[name]] == []


def can_mount() -> bool:
    """Return whether a process may mount file systems in its own namespace."""
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def processes_of_session(number: int) -> list[int]:
    """Return the ids of the processes in a run's session, without zombies."""
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
    """Wait until `condition()` is true, for at most `seconds`; return whether it is."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())
