"""The program that the crash harness runs: the train command, with an injected fault.

It is started once as a server (`python traced_training.py`), which imports everything and then
forks the runs. It reads requests, one JSON object per line, and answers each with one line:

`{"argv": [...], "environment": {...}, "trace": FILE, "output": FILE, "fault": {...}}` forks a run;
the answer is its process id.
`{"wait": PROCESS_ID}` waits for the end of a run; the answer is its exit code (-9 for SIGKILL).

A run is a separate process in its own session, and runs the code of `python -m signvit_jax.train`;
it shares only the imports with the server. The server has no JAX device and no thread when it
forks.

With `"mounts": [[arguments of mount], ...]` the run mounts file systems that only it sees. With
`"keep": [FROM, TO]` a folder of them is copied when the run ends.

Fault: when a start enters `phase` for the `count`-th time ("step": when the run takes the batch of
step `count`), it gets signals (`signals`: [[seconds from then, signal number], ...]), and it stays
in that phase for `hang` seconds, so that it gets the signals there. With `fill` (a folder) the
folder's disk is first filled to the last byte, and filled again at each later step; step `free_at`
frees it. With `"plots": true` metrics.png is drawn after every epoch, not at most once a minute.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from signvit_jax.checkpoints import store
from signvit_jax.cli.processes import leave
from signvit_jax.commands import train
from signvit_jax.data.pipeline import BatchIterator
from signvit_jax.optimization.compiling_ahead import CompiledSteps
from signvit_jax.runtime.exit_codes import run_command
from signvit_jax.training import validation
from signvit_jax.training.hooks import StepHooks

logging.raiseExceptions = False


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                return _run(request)
        print(answer, flush=True)


def _run(request: dict) -> None:
    os.setsid()
    # A terminal becomes the controlling terminal of the session if it is opened for reading too.
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["output"], os.O_RDWR | os.O_CREAT | os.O_APPEND),
    ):
        os.dup2(os.open(path, flags, 0o644), number)
    os.dup2(1, 2)
    os.environ.update(request["environment"])
    if request["mounts"]:
        _mount(request["mounts"])
    nohup = os.environ.get("TRACED_NOHUP")
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    sys.argv = ["train.py", *request["argv"]]
    _trace_batches(Path(request["trace"]))
    if request["fault"]:
        _Fault(Path(request["trace"]).with_suffix(".signaled"), **request["fault"]).install()
    try:
        leave(run_command(train.main, train.run_log))
    finally:
        if request["keep"]:
            shutil.copytree(*request["keep"])


def _mount(mounts: list[list[str]]) -> None:
    """Enter a user and a mount namespace, in which this process may mount."""
    user = os.getuid()
    group = os.getgid()
    os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    for arguments in mounts:
        subprocess.run(["mount", *arguments], check=True)


def _trace_batches(trace: Path) -> None:
    """Write a line for every training batch of the run: step, clips, digest of all arrays."""
    read = BatchIterator.__next__

    def traced_next(self):
        batch = read(self)
        if self._source._training:
            digest = hashlib.sha256()
            for name in sorted(batch):
                digest.update(name.encode())
                digest.update(str(batch[name].shape).encode())
                digest.update(batch[name].tobytes())
            line = [self.next_step, batch["index"].tolist(), digest.hexdigest()]
            with trace.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return batch

    BatchIterator.__next__ = traced_next


class _Fault:
    """A fault as the module docstring describes it; `install` patches the train command."""

    def __init__(
        self,
        signaled: Path,
        phase: str,
        count: int,
        signals: list = (),
        hang: float = 0.0,
        fill: str | None = None,
        free_at: int = 0,
        plots: bool = False,
    ):
        self.signaled = signaled
        self.phase = phase
        self.signals = signals
        self.hang = hang
        self.plots = plots
        self.filling = fill and Path(fill) / "of_somebody_else"
        self.free_at = free_at
        self.count = count  # entries until the fault occurs; for "step": the number of the step

    def install(self) -> None:
        if self.plots:
            plot = StepHooks.plot
            StepHooks.plot = lambda hooks, at_once=True: plot(hooks, True)
        {
            "step": self._in_step,
            "compile": self._in_compile,
            "save": self._in_save,
            "manifest": self._in_manifest,
            "eval": self._in_eval,
        }[self.phase]()

    def enter_phase(self) -> None:
        self.count -= 1
        if self.count == 0:
            self.strike()

    def strike(self) -> None:
        if self.filling:
            self._fill()
        threading.Thread(target=self._send, daemon=True).start()
        time.sleep(self.hang)

    def _fill(self) -> None:
        with self.filling.open("ab", buffering=0) as file:
            for size in (65536, 1024, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def _send(self) -> None:
        begin = time.monotonic()
        for seconds, number in self.signals:
            time.sleep(max(begin + seconds - time.monotonic(), 0))
            self.signaled.write_text(str(time.monotonic()))
            os.kill(os.getpid(), number)

    def _in_step(self) -> None:
        """Strike when the run takes the batch of the step, milliseconds before the step."""
        read = BatchIterator.__next__

        def take(iterator):
            batch = read(iterator)
            if not iterator._source._training:
                return batch
            step = iterator.next_step
            if step == self.count:
                self.strike()
            if self.filling and self.count < step <= (self.free_at or step):
                self._fill()
                if step == self.free_at:
                    self.filling.unlink()
            return batch

        BatchIterator.__next__ = take

    def _in_compile(self) -> None:
        """Count compilations of train steps; a fault occurs before the step is traced."""
        compile_step = CompiledSteps.compile

        def compile_or_strike(steps, *operands):
            self.enter_phase()
            return compile_step(steps, *operands)

        CompiledSteps.compile = compile_or_strike

    def _in_save(self) -> None:
        """Count saves; a fault occurs before arrays are copied and written in the background."""
        save = store.CheckpointStore.save

        def save_or_strike(store, *arguments, **options):
            self.enter_phase()
            save(store, *arguments, **options)

        store.CheckpointStore.save = save_or_strike

    def _in_manifest(self) -> None:
        """Count manifests; a fault occurs before the write: the step has its temporary name."""
        write = store.write_manifest

        def write_or_strike(folder):
            self.enter_phase()
            write(folder)

        store.write_manifest = write_or_strike

    def _in_eval(self) -> None:
        """Count the batches of evaluations; a fault occurs before a batch is evaluated."""
        make = validation.make_eval_step

        def make_striking_step(*arguments):
            step = make(*arguments)

            def evaluate_or_strike(*operands):
                self.enter_phase()
                return step(*operands)

            return evaluate_or_strike

        validation.make_eval_step = make_striking_step


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
