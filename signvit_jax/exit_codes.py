"""What a command's exit code means, and the one place where an exception becomes one."""

import logging
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

DONE = 0
FAILED = 1  # something of ours or of the machine's: a full disk, a damaged checkpoint, a bug
USAGE = 2  # wrong flag, config, data set or workdir: trying again without a change is of no use
SOME_INPUTS_FAILED = 3
NO_READABLE_MEDIA = 4
OUT_OF_MEMORY = 5
HUNG_UP = 128 + signal.SIGHUP  # 129
INTERRUPTED = 128 + signal.SIGINT  # 130
TERMINATED = 128 + signal.SIGTERM  # 143; SIGUSR1, which batch systems send ahead of it, ends the same way

MEMORY_ADVICE = """What to do, in this order:
  halve the rows that are on the device at once: --config.training.gradient_accumulation=2 (batch 16 runs as 2 x 8, same result), then 4, 8
  or train with a smaller batch: --config.training.batch_size=8
  keep less for the backward pass: --config.training.remat=full
  fewer frames (--config.data.num_frames) or smaller pictures (--config.data.image_size); for evaluation --config.inference.batch_size
  several devices: --config.mesh.fsdp=2 spreads parameters and optimiser state over two"""


def run_command(main: Callable[[], int | None], log_file: Callable[[], Path | None] = lambda: None) -> int:
    """Runs a command and returns its exit code; `sys.exit(run_command(main))` is the last line of every command.

    An exception class with an integer attribute `exit_code` is one whose message is for the user and complete; it is shown without a traceback.
    `main` returns an exit code (None means done). `log_file` is asked after an unexpected failure where its traceback should also be kept.
    """
    try:
        return main() or DONE
    except SystemExit as stop:  # argparse has printed its own message
        return stop.code if isinstance(stop.code, int) else DONE if stop.code is None else _say(str(stop.code), FAILED)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BaseException as error:
        return _exit_code(error, log_file)


def is_out_of_memory(error: BaseException) -> bool:
    """True for a MemoryError and for XLA's RESOURCE_EXHAUSTED, also where another exception was raised from it."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError) or (type(link).__name__ in ("XlaRuntimeError", "JaxRuntimeError") and "RESOURCE_EXHAUSTED" in str(link)):
            return True
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def _exit_code(error: BaseException, log_file: Callable[[], Path | None]) -> int:
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return _say(str(error), code)
    if is_out_of_memory(error):
        _keep_traceback(error, log_file())
        return _say(f"out of memory: {_first_line(error)}\n{MEMORY_ADVICE}", OUT_OF_MEMORY)
    path = log_file()
    if _keep_traceback(error, path):
        return _say(f"{type(error).__name__}: {_first_line(error)}\nThis was not expected; the traceback is in {path}", FAILED)
    traceback.print_exception(error)
    return FAILED


def _keep_traceback(error: BaseException, path: Path | None) -> bool:
    if path is None:
        return False
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))
    except OSError as problem:
        logging.getLogger(__name__).warning("the traceback could not be kept in %s: %s", path, problem)
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _say(message: str, code: int) -> int:
    print(f"error: {message}" if code != INTERRUPTED else message, file=sys.stderr, flush=True)
    return code
