"""Send a run's messages to the terminal, and to run.log with times and tracebacks."""

import logging
import sys
from pathlib import Path

import jax
from rich.console import Console
from rich.logging import RichHandler

from signvit_jax.runtime.standard_streams import CleanFormatter

log = logging.getLogger(__name__)

# The program's only console. Progress bars use it too; otherwise log lines would break them.
CONSOLE = Console(stderr=True)
_SHOWN = ("signvit_jax", "__main__")  # top-level loggers whose messages the terminal shows


def start_run_log(path: Path | None = None) -> None:
    """Show our messages on the terminal, and append all messages to `path`; on process 0 only.

    The terminal gets plain lines if it is a file or a pipe. Libraries' messages go to the file
    alone: Orbax logs tracebacks of a failed save, but our error reports it in one line. A second
    call replaces the set-up of the first. If the log cannot be opened, a warning says so, and the
    run has no log.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        # A library's logging.basicConfig() would show every message a second time.
        if isinstance(handler, _RunLogHandler) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(logging.INFO)
    for library in ("absl", "jax", "orbax", "etils"):
        logging.getLogger(library).setLevel(logging.WARNING)
    absl = logging.getLogger("absl")
    absl.handlers.clear()  # absl has a handler of its own, which writes to the terminal
    absl.propagate = True
    sys.unraisablehook = _keep_unraisable
    if jax.process_index() != 0:
        root.addHandler(_NoHandler())
        return
    terminal = _terminal_handler()
    terminal.addFilter(lambda record: record.name.split(".")[0] in _SHOWN)
    root.addHandler(terminal)
    if path is not None:
        try:
            file = _RunLog(path, encoding="utf-8")
        except OSError as error:
            log.warning("%s cannot be written (%s): this run keeps no log", path, error.strerror)
            return
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)


def _keep_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Log an exception that nobody can catch, as in TensorStore's callback of a failed save."""
    error = unraisable.exc_value
    logging.getLogger("python").error(
        "%s in %r", unraisable.err_msg or "exception ignored", unraisable.object, exc_info=error
    )


class _RunLogHandler:
    """The mark of handlers that `start_run_log` adds, and that its next call removes."""

    of_run_log = True


class _NoHandler(_RunLogHandler, logging.NullHandler):
    pass


class _TerminalHandler(_RunLogHandler, RichHandler):
    pass


class _PlainHandler(_RunLogHandler, logging.StreamHandler):
    pass


class _RunLog(_RunLogHandler, logging.FileHandler):
    """run.log. Lines that the disk does not take are dropped; the first is reported."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            log.warning(
                "%s cannot be written (%s); the run continues without it",
                self.baseFilename,
                error.strerror,
            )


def _terminal_handler() -> logging.Handler:
    if CONSOLE.is_terminal:
        shown = _TerminalHandler(
            console=CONSOLE,
            show_path=False,
            show_level=False,
            log_time_format="%H:%M:%S",
            markup=False,
            highlighter=None,
        )
        shown.setFormatter(CleanFormatter("%(message)s"))
        return shown
    plain = _PlainHandler(sys.stderr)
    plain.setFormatter(CleanFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    return plain
