"""Where a run's messages go: to the terminal for people, and to run.log with times and tracebacks."""

import logging
import sys
from pathlib import Path

import jax
from rich.console import Console
from rich.logging import RichHandler

from signvit_jax.runtime.streams import CleanFormatter

# The one console of the program: a progress bar must be drawn by it too, or log lines would tear it apart.
CONSOLE = Console(stderr=True)
_SHOWN = ("signvit_jax", "__main__")


def start_run_log(path: Path | None = None) -> None:
    """Shows our messages on the terminal (plain lines when it is a file or a pipe) and appends all messages to `path`, process 0 only.

    Libraries' messages go to the file alone, Orbax's tracebacks of a failed save among them: the error that follows says it in one line.
    Called again, it replaces what the first call set up. A log that cannot be opened is named and done without.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        # A library's logging.basicConfig() would show every message a second time.
        if getattr(handler, "of_run_log", False) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(logging.INFO)
    for chatty in ("absl", "jax", "orbax", "etils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    absl = logging.getLogger("absl")
    absl.handlers.clear()  # absl brings its own handler, which writes to the terminal
    absl.propagate = True
    sys.unraisablehook = _keep_unraisable
    if jax.process_index() != 0:
        _add(root, logging.NullHandler())
        return
    terminal = _terminal_handler()
    terminal.addFilter(lambda record: record.name.split(".")[0] in _SHOWN)
    _add(root, terminal)
    if path is not None:
        try:
            file = _RunLog(path, encoding="utf-8")
        except OSError as error:
            logging.getLogger(__name__).warning(
                "%s cannot be written (%s): this run keeps no log", path, error.strerror
            )
            return
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _add(root, file)


def _keep_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """What a library's callback raises where nobody can catch it (TensorStore's, after a save that failed) is for the file as well."""
    error = unraisable.exc_value
    logging.getLogger("python").error(
        "%s in %r", unraisable.err_msg or "exception ignored", unraisable.object, exc_info=error
    )


class _RunLog(logging.FileHandler):
    """run.log. A line that the disk does not take is left out; the first such is named on the terminal."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            logging.getLogger(__name__).warning(
                "%s cannot be written (%s); the run goes on without it",
                self.baseFilename,
                error.strerror,
            )


def _terminal_handler() -> logging.Handler:
    if CONSOLE.is_terminal:
        shown = RichHandler(
            console=CONSOLE,
            show_path=False,
            show_level=False,
            log_time_format="%H:%M:%S",
            markup=False,
            highlighter=None,
        )
        shown.setFormatter(CleanFormatter("%(message)s"))
        return shown
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(CleanFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    return plain


def _add(root: logging.Logger, handler: logging.Handler) -> None:
    handler.of_run_log = True
    root.addHandler(handler)
