"""Probes with a time limit; those that may crash or hang run in separate processes."""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from signvit_jax.doctor.findings import Request

_SHOWN = 300  # characters of the last lines that a probe wrote
_KILL_SECONDS = 2.0  # to wait for a killed process, which may hang in a driver


class ProbeFailed(Exception):
    """A probe that crashed, raised or did not answer; the message says which, and what it wrote."""


class ProbeTimeout(ProbeFailed):
    """A probe that did not answer in time."""


def in_process[Facts](probe: Callable[[Request], Facts], request: Request, seconds: float) -> Facts:
    """Run a probe in a new process. Raises ProbeFailed.

    `probe` must be a function of a module. What it and its libraries print goes to a file, whose
    end is shown if it fails.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(prefix="signvit-doctor-") as output, receiver:
        process = context.Process(
            target=_answer, args=(probe, request, sender, output.name), daemon=True
        )
        process.start()
        sender.close()
        try:
            if not receiver.poll(seconds):
                raise ProbeTimeout(f"no answer in {seconds:g} s")
            facts, error = receiver.recv()
        except EOFError:
            process.join(_KILL_SECONDS)
            raise ProbeFailed(
                f"its process {_how_it_ended(process.exitcode)}{_last_lines(output.name)}"
            ) from None
        finally:
            process.kill()
            process.join(_KILL_SECONDS)
    if error:
        raise ProbeFailed(error)
    return facts


def _answer[Facts](
    probe: Callable[[Request], Facts], request: Request, answers: Connection, output: str
) -> None:
    """The child: run the probe and send (facts, error)."""
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        answers.send((probe(request), ""))
    except Exception as error:
        traceback.print_exc()
        answers.send((None, _error_line(error)))
    answers.close()
    sys.stdout.flush()
    # Libraries may hang when they clean up, and the answer has been sent.
    os._exit(0)


def in_thread[Facts](probe: Callable[[Request], Facts], request: Request, seconds: float) -> Facts:
    """Run a probe that only reads files and settings. Raises ProbeFailed.

    If a file server does not answer, only the thread of the probe hangs.
    """
    answers: list[Facts] = []
    errors: list[str] = []

    def run() -> None:
        try:
            answers.append(probe(request))
        except Exception as error:
            errors.append(_error_line(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    if errors:
        raise ProbeFailed(errors[0])
    raise ProbeTimeout(f"no answer in {seconds:g} s")


def _error_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_SHOWN]


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"crashed ({signal.Signals(-code).name})"
    return f"ended with code {code}"


def _last_lines(path: str) -> str:
    text = Path(path).read_text(errors="replace").strip()
    return f": ...{text[-_SHOWN:]}" if text else ""
