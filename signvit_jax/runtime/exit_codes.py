"""Exit codes of the commands, and the one place where an exception becomes one."""

import contextlib
import logging
import os
import signal
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from signvit_jax.errors.base import SignVitError
from signvit_jax.errors.memory_advice import memory_advice
from signvit_jax.runtime.standard_streams import clean, guard_streams

DONE = 0
FAILED = 1  # a fault of ours or of the machine: a full disk, a damaged checkpoint, a bug
USAGE = 2  # a wrong flag, config, data set or workdir: the same call would fail again
SOME_INPUTS_FAILED = 3
NO_READABLE_MEDIA = 4
OUT_OF_MEMORY = 5
HUNG_UP = 128 + signal.SIGHUP  # 129
INTERRUPTED = 128 + signal.SIGINT  # 130
TERMINATED = 128 + signal.SIGTERM  # 143, also for SIGUSR1, which batch systems send ahead of it


class UsageError(SignVitError):
    """A request that cannot be carried out; the message says what can."""


def run_command(
    main: Callable[[], int | None], log_file: Callable[[], Path | None] = lambda: None
) -> int:
    """Run a command and return its exit code, for `sys.exit(run_command(main))`.

    `main` returns an exit code; None means done. A `SignVitError` is shown without a traceback,
    because its message is complete, and its `exit_code` is returned. After an unexpected failure
    `log_file` is asked for a file that keeps the traceback.
    """
    guard_streams()
    try:
        os.getcwd()
    except FileNotFoundError:
        return _report(
            "the working directory has been deleted; "
            "change to one that exists (cd ..) and start again",
            USAGE,
        )
    find_home()
    try:
        code = main() or DONE
        sys.stdout.flush()  # so that an error appears before the exit code is decided
        return code
    except SystemExit as stop:
        return _code_of_exit(stop)
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except BaseException as error:
        return _code_of_error(error, log_file)


def find_home() -> None:
    """Give a process without a home folder one as HOME.

    Containers run with an unknown user id and no HOME, and libraries ask for one when they are
    imported. Nothing changes where a home exists.
    """
    if os.path.expanduser("~") == "~":
        # Without a temporary folder too, only some commands fail.
        with contextlib.suppress(OSError):
            os.environ["HOME"] = private_folder()


def private_folder() -> str:
    """A folder in the temporary folder that only this user can change.

    The same for all processes of the user. Raises OSError.
    """
    folder = os.path.join(tempfile.gettempdir(), f"signvit_jax-{os.getuid()}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        status = os.lstat(folder)
        # Compiled programs are kept here: nobody else may have created it or may change it.
        is_own_folder = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if not is_own_folder or status.st_mode & 0o077:
            return tempfile.mkdtemp(prefix="signvit_jax-")
    return folder


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for a MemoryError, XLA's RESOURCE_EXHAUSTED, and what one of them caused."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError) or (
            type(link).__name__ in ("XlaRuntimeError", "JaxRuntimeError")
            and "RESOURCE_EXHAUSTED" in str(link)
        ):
            return True
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def _code_of_exit(stop: SystemExit) -> int:
    """argparse exits with a number, after it has printed its own message."""
    if stop.code is None:
        return DONE
    return stop.code if isinstance(stop.code, int) else _report(str(stop.code), FAILED)


def _code_of_error(error: BaseException, log_file: Callable[[], Path | None]) -> int:
    if isinstance(error, SignVitError):
        return _report(str(error), error.exit_code)
    if is_out_of_memory(error):
        _keep_traceback(error, log_file())
        return _report(f"out of memory: {_first_line(error)}\n{memory_advice()}", OUT_OF_MEMORY)
    path = log_file()
    if _keep_traceback(error, path):
        return _report(
            f"{type(error).__name__}: {_first_line(error)}\n"
            f"This was not expected; the traceback is in {path}",
            FAILED,
        )
    # The operating system's message about a file is complete.
    if isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror:
        return _report(f"{error.filename}: {error.strerror}", FAILED)
    text = clean("".join(traceback.format_exception(error)), keep="\n")
    print(text, end="", file=sys.stderr, flush=True)
    return FAILED


def _keep_traceback(error: BaseException, path: Path | None) -> bool:
    if path is None:
        return False
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))
    except OSError as problem:
        logging.getLogger(__name__).warning(
            "the traceback could not be kept in %s: %s", path, problem
        )
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _report(message: str, code: int) -> int:
    """Print the message of a failure and return its exit code."""
    text = message if code == INTERRUPTED else f"error: {message}"
    print(clean(text, keep="\n"), file=sys.stderr, flush=True)
    return code
