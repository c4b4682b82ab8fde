"""What a command's exit code means, and the one place where an exception becomes one."""

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

from signvit_jax.runtime.memory_advice import memory_advice
from signvit_jax.runtime.streams import clean, guard_streams

DONE = 0
FAILED = 1  # something of ours or of the machine's: a full disk, a damaged checkpoint, a bug
USAGE = 2  # wrong flag, config, data set or workdir: trying again without a change is of no use
SOME_INPUTS_FAILED = 3
NO_READABLE_MEDIA = 4
OUT_OF_MEMORY = 5
HUNG_UP = 128 + signal.SIGHUP  # 129
INTERRUPTED = 128 + signal.SIGINT  # 130
TERMINATED = (
    128 + signal.SIGTERM
)  # 143; SIGUSR1, which batch systems send ahead of it, ends the same way


class UsageError(Exception):
    """What was asked for cannot be done as it was asked; the message says what can."""

    exit_code = USAGE


def run_command(
    main: Callable[[], int | None], log_file: Callable[[], Path | None] = lambda: None
) -> int:
    """Runs a command and returns its exit code; `sys.exit(run_command(main))` is the last line of every command.

    An exception class with an integer attribute `exit_code` is one whose message is for the user and complete; it is shown without a traceback.
    `main` returns an exit code (None means done). `log_file` is asked after an unexpected failure where its traceback should also be kept.
    """
    guard_streams()
    try:
        os.getcwd()
    except FileNotFoundError:
        return _say(
            "the working directory has been deleted; change to one that is there (cd ..) and start again",
            USAGE,
        )
    find_home()
    try:
        code = main() or DONE
        sys.stdout.flush()  # an error now, and not after the exit code is settled
        return code
    except SystemExit as stop:  # argparse has printed its own message
        return (
            stop.code
            if isinstance(stop.code, int)
            else DONE
            if stop.code is None
            else _say(str(stop.code), FAILED)
        )
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BaseException as error:
        return _exit_code(error, log_file)


def find_home() -> None:
    """Gives a process without a home a folder of its own as HOME: containers run with an unknown user id and no HOME, and
    libraries ask for one when they are imported. Nothing is changed where there is a home.
    """
    if os.path.expanduser("~") == "~":
        with contextlib.suppress(
            OSError
        ):  # no temporary folder either: only some commands need one
            os.environ["HOME"] = private_folder()


def private_folder() -> str:
    """A folder under the system's temporary one that belongs to this user alone, the same for all processes of the user.
    Raises OSError.
    """
    folder = os.path.join(tempfile.gettempdir(), f"signvit_jax-{os.getuid()}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        # Programs are kept here: nobody else may have made or may change it.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return tempfile.mkdtemp(prefix="signvit_jax-")
    return folder


def is_out_of_memory(error: BaseException) -> bool:
    """True for a MemoryError and for XLA's RESOURCE_EXHAUSTED, also where another exception was raised from it."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError) or (
            type(link).__name__ in ("XlaRuntimeError", "JaxRuntimeError")
            and "RESOURCE_EXHAUSTED" in str(link)
        ):
            return True
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def _exit_code(error: BaseException, log_file: Callable[[], Path | None]) -> int:
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return _say(str(error), code)
    if is_out_of_memory(error):
        _keep_traceback(error, log_file())
        return _say(f"out of memory: {_first_line(error)}\n{memory_advice()}", OUT_OF_MEMORY)
    path = log_file()
    if _keep_traceback(error, path):
        return _say(
            f"{type(error).__name__}: {_first_line(error)}\nThis was not expected; the traceback is in {path}",
            FAILED,
        )
    if (
        isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror
    ):  # the machine's, and complete
        return _say(f"{error.filename}: {error.strerror}", FAILED)
    print(
        clean("".join(traceback.format_exception(error)), keep="\n"),
        end="",
        file=sys.stderr,
        flush=True,
    )
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


def _say(message: str, code: int) -> int:
    print(
        clean(f"error: {message}" if code != INTERRUPTED else message, keep="\n"),
        file=sys.stderr,
        flush=True,
    )
    return code
