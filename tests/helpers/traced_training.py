"""The program that the crash harness runs: the train command, forked from a process that has imported everything, with a fault built in.

Started once as a server (`python traced_training.py`), it reads requests from its input, one JSON line each, and answers with one line:
`{"argv": [...], "environment": {...}, "trace": FILE, "output": FILE, "fault": {...}}` forks a run and gives its process number;
`{"wait": NUMBER}` gives the exit code of a run (-9 for SIGKILL) once it has ended.
A run is a real process, in a session of its own, that runs what `python -m signvit_jax.train` runs; only the seconds of importing are shared.
The server has no JAX device and no thread when it forks.

With `"mounts": [[what mount is told], ...]` the run sees file systems of its own; `"keep": [FROM, TO]` copies a folder of them at its end.

A fault: at the `count`-th time that a start comes to `phase` (of "step": when the run takes the batch of that step), signals are sent to it
(`signals`: [[seconds from then, number], ...]), and it stays in that phase for `hang` seconds, so that the signal meets it there.
With `fill` (a folder) the disk of that folder is filled first, to the last byte, and again at each further step, until that of `free_at`.
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
from signvit_jax.cli.common import leave
from signvit_jax.commands import train
from signvit_jax.data.pipeline import BatchIterator
from signvit_jax.optimization.compiled_steps import CompiledSteps
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
    # A terminal that is opened for reading too becomes the session's own.
    for number, path, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["output"], os.O_RDWR | os.O_CREAT | os.O_APPEND),
    ):
        os.dup2(os.open(path, how, 0o644), number)
    os.dup2(1, 2)
    os.environ.update(request["environment"])
    if request["mounts"]:
        _mount(request["mounts"])
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN if os.environ.get("TRACED_NOHUP") else signal.SIG_DFL
    )
    sys.argv = ["train.py", *request["argv"]]
    _trace_batches(Path(request["trace"]))
    if request["fault"]:
        _Fault(Path(request["trace"]).with_suffix(".signalled"), **request["fault"]).build_in()
    try:
        leave(run_command(train.main, train.run_log))
    finally:
        if request["keep"]:
            shutil.copytree(*request["keep"])


def _mount(mounts: list[list[str]]) -> None:
    """A user and a mount namespace of this process's own, in which it may mount."""
    user, group = os.getuid(), os.getgid()
    os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    for arguments in mounts:
        subprocess.run(["mount", *arguments], check=True)


def _trace_batches(trace: Path) -> None:
    """A line for every training batch that is taken: the step, the clips, and a digest of all arrays."""
    read = BatchIterator.__next__

    def traced(self):
        batch = read(self)
        if self._source._training:
            digest = hashlib.sha256()
            for name in sorted(batch):
                digest.update(
                    name.encode() + str(batch[name].shape).encode() + batch[name].tobytes()
                )
            with trace.open("a") as file:
                file.write(
                    json.dumps([self.next_step, batch["index"].tolist(), digest.hexdigest()]) + "\n"
                )
        return batch

    BatchIterator.__next__ = traced


class _Fault:
    def __init__(
        self,
        signalled: Path,
        phase: str,
        count: int,
        signals: list = (),
        hang: float = 0.0,
        fill: str | None = None,
        free_at: int = 0,
        plots: bool = False,
    ):
        self.signalled, self.phase, self.signals, self.hang, self.plots = (
            signalled,
            phase,
            signals,
            hang,
            plots,
        )
        self.filling, self.free_at = fill and Path(fill) / "of_somebody_else", free_at
        self.left = count  # of a step: its number

    def build_in(self) -> None:
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

    def come_by(self) -> None:
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
            self.signalled.write_text(str(time.monotonic()))
            os.kill(os.getpid(), number)

    def _in_step(self) -> None:
        """The training batch of that step is taken; the step itself follows within milliseconds."""
        read = BatchIterator.__next__

        def taken(iterator):
            batch = read(iterator)
            if iterator._source._training and iterator.next_step == self.left:
                self.strike()
            if (
                iterator._source._training
                and self.filling
                and self.left < iterator.next_step <= (self.free_at or iterator.next_step)
            ):
                self._fill()
                if iterator.next_step == self.free_at:
                    self.filling.unlink()
            return batch

        BatchIterator.__next__ = taken

    def _in_compile(self) -> None:
        """Each program of a train step, before it is traced and compiled."""
        compile_step = CompiledSteps.compile

        def compiled(steps, *operands):
            self.come_by()
            return compile_step(steps, *operands)

        CompiledSteps.compile = compiled

    def _in_save(self) -> None:
        """Each save, from its start on: arrays are copied, written in the background, made final, older ones deleted."""
        save = store.CheckpointStore.save

        def saved(store, *arguments, **options):
            self.come_by()
            save(store, *arguments, **options)

        store.CheckpointStore.save = saved

    def _in_manifest(self) -> None:
        """All files of a step are written, it still has its temporary name, and there is no manifest."""
        write = store.write_manifest

        def written(folder):
            self.come_by()
            write(folder)

        store.write_manifest = written

    def _in_eval(self) -> None:
        """Each batch of an evaluation."""
        make = validation.make_eval_step

        def made(*arguments):
            step = make(*arguments)

            def evaluated(*operands):
                self.come_by()
                return step(*operands)

            return evaluated

        validation.make_eval_step = made


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
