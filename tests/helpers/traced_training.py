"""The program that the crash harness runs: the train command, with a fault.

It is started once as a server (`python traced_training.py`), which has imported everything and
forks the runs. It reads requests, one JSON line each, and answers each with one line:

`{"argv": [...], "environment": {...}, "trace": FILE, "output": FILE, "fault": {...}}` forks a run;
the answer is its process number.
`{"wait": NUMBER}`: the answer is the exit code of a run (-9 for SIGKILL), once it has ended.

A run is a real process, in a session of its own, that runs what `python -m signvit_jax.train` runs;
only the imports are shared. The server has no JAX device and no thread when it forks.

With `"mounts": [[arguments of mount], ...]` the run has file systems of its own; `"keep": [FROM,
TO]` copies a folder of them at its end.

Fault: when a start enters `phase` for the `count`-th time ("step": when the run takes the batch of
step `count`), signals are sent to it (`signals`: [[seconds from then, number], ...]), and it stays
in that phase for `hang` seconds, so that the signal reaches it there. With `fill` (a folder) the
folder's disk is filled first, to the last byte, and again at each later step, until step `free_at`.
With `"plots": true` metrics.png is drawn at the end of each epoch.
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
    # A terminal that is opened for reading too becomes the session's controlling terminal.
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
    """Write a line for every training batch that is taken: step, clips, digest of all arrays."""
    read = BatchIterator.__next__

    def traced(self):
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

    BatchIterator.__next__ = traced


class _Fault:
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
        self.left = count  # for "step": the number of the step

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
        self.left -= 1
        if self.left == 0:
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
        """Strike when the training batch of the step is taken, milliseconds before the step."""
        read = BatchIterator.__next__

        def taken(iterator):
            batch = read(iterator)
            if not iterator._source._training:
                return batch
            step = iterator.next_step
            if step == self.left:
                self.strike()
            if self.filling and self.left < step <= (self.free_at or step):
                self._fill()
                if step == self.free_at:
                    self.filling.unlink()
            return batch

        BatchIterator.__next__ = taken

    def _in_compile(self) -> None:
        """Count the programs of train steps, before each is traced and compiled."""
        compile_step = CompiledSteps.compile

        def compiled(steps, *operands):
            self.enter_phase()
            return compile_step(steps, *operands)

        CompiledSteps.compile = compiled

    def _in_save(self) -> None:
        """Count saves, at the start of each: arrays are copied, then written in the background."""
        save = store.CheckpointStore.save

        def saved(store, *arguments, **options):
            self.enter_phase()
            save(store, *arguments, **options)

        store.CheckpointStore.save = saved

    def _in_manifest(self) -> None:
        """Count manifests, before each is written: the step still has its temporary name."""
        write = store.write_manifest

        def written(folder):
            self.enter_phase()
            write(folder)

        store.write_manifest = written

    def _in_eval(self) -> None:
        """Count the batches of evaluations."""
        make = validation.make_eval_step

        def made(*arguments):
            step = make(*arguments)

            def evaluated(*operands):
                self.enter_phase()
                return step(*operands)

            return evaluated

        validation.make_eval_step = made


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
