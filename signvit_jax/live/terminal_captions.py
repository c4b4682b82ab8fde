"""Live captions in a terminal, in a pipe, and in a growing caption file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from signvit_jax.captions.formats import FORMATS, Captions
from signvit_jax.captions.layout import CaptionLayout, LayoutFaults
from signvit_jax.captions.segments import Segment
from signvit_jax.files.atomic import write_atomically
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.standard_streams import OutputError, clean

if TYPE_CHECKING:
    from signvit_jax.inference.streaming import StreamUpdate

_PARTIAL_STYLE, _FINAL_STYLE, _TIME_STYLE = "bright_black", "bold bright_white", "bright_black"


class CaptionFile:
    """A caption file of the segments that are final so far; a complete file at all times.

    The extension of its name selects the format. Raises UsageError for an unknown extension, for
    an existing file unless `overwrite`, and for a folder that cannot be written.
    """

    def __init__(
        self, path: Path, layout: CaptionLayout, *, overwrite: bool, word_times: bool = False
    ):
        self._path = path
        self._layout = layout
        self._word_times = word_times
        self.language = ""  # language tag of the texts; set once the model is loaded
        self._segments: list[Segment] = []
        self.faults = LayoutFaults()
        self._format = path.suffix[1:].lower()
        if self._format not in FORMATS:
            raise UsageError(
                f"--output={path} ends in {path.suffix!r}; allowed: "
                + ", ".join(f".{name}" for name in FORMATS)
            )
        if path.exists() and not overwrite:
            raise UsageError(
                f"--output={path} already exists; give --overwrite to replace it, or another name"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise UsageError(f"--output={path} cannot be written: {error.strerror}") from error

    def add(self, segments: Sequence[Segment]) -> None:
        """Add final segments. Raises OutputError if they cannot be written; the old file stays."""
        if not segments:
            return
        self._segments += segments
        try:
            self._write()
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror}; it keeps the earlier captions"
            ) from error

    def _write(self) -> None:
        captions = Captions(
            self._segments,
            layout=self._layout,
            word_times=self._word_times,
            language=self.language,
        )
        self.faults = captions.faults
        write_atomically(self._path, captions.as_format(self._format))


class TerminalCaptions:
    """Captions on standard output: final text in white above partial text in gray.

    If standard output is not a terminal, each final segment is a line with its start and end in
    seconds and its text, separated by tabs. A context manager.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self.num_final = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(Text())
            self._live.__exit__(kind, error, trace)

    def show(self, update: "StreamUpdate") -> None:
        """Show an update. Control characters in its texts are shown as escapes."""
        for segment in update.final:
            if segment.text:
                self.num_final += 1
                self._show_final(segment)
        if self._live is not None:
            partial = clean(update.text or update.partial)
            self._live.update(Text(partial, style=_PARTIAL_STYLE), refresh=True)

    def _show_final(self, segment: Segment) -> None:
        if self._live is None:
            print(f"{segment.start:.3f}\t{segment.end:.3f}\t{clean(segment.text)}", flush=True)
            return
        minutes, seconds = divmod(int(segment.start), 60)
        self._console.print(
            Text.assemble(
                (f"{minutes:d}:{seconds:02d}  ", _TIME_STYLE), (clean(segment.text), _FINAL_STYLE)
            )
        )


def say(message: str) -> None:
    """Print a message about the session on standard error."""
    print(clean(message), file=sys.stderr, flush=True)
