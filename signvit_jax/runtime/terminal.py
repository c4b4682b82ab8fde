"""Tables and progress bars that are readable on a terminal of any width, and in a file."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text, TextType

from signvit_jax.runtime.standard_streams import clean

_LONGEST_BAR, _SHORTEST_BAR = 40, 10  # characters
_UNLIMITED = 10_000  # a width in characters that every table fits


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table on standard output; one value per line where the terminal is too narrow.

    In a file the table has its full width.
    """
    console = console or Console()
    table.title, table.caption = _plain(table.title), _plain(table.caption)
    needed = console.measure(table, options=console.options.update(width=_UNLIMITED)).maximum
    if needed <= console.width:
        console.print(table)
    elif not console.is_terminal:
        console.width = needed
        console.print(table)
    else:
        for line in _lines(table):
            console.print(line, soft_wrap=True, markup=False, highlight=False)


class FittingProgress(Progress):
    """A progress bar that omits columns where the terminal is too narrow.

    The bar itself goes first, then the other columns from the last on. The count of finished items
    and their total are always shown.
    """

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        tasks = list(tasks)
        all_columns = self.columns
        visible = [task for task in tasks if task.visible]
        if visible:
            self.columns = tuple(self._fitting_columns(visible))
        try:
            return super().make_tasks_table(tasks)
        finally:
            self.columns = all_columns

    def _fitting_columns(self, tasks: list[Task]) -> list[ProgressColumn]:
        columns = [column for column in self.columns if isinstance(column, ProgressColumn)]
        widths = {column: max(self._width(column, task) for task in tasks) for column in columns}

        def spare() -> int:
            return self.console.width - sum(widths[column] + 1 for column in columns) + 1

        for bar in [column for column in columns if isinstance(column, BarColumn)]:
            room = widths[bar] + spare()
            bar.bar_width = min(max(room, _SHORTEST_BAR), _LONGEST_BAR)
            widths[bar] = min(room, _LONGEST_BAR)
            if room < _SHORTEST_BAR:
                columns.remove(bar)
        for column in columns[::-1]:
            if spare() < 0 and not isinstance(column, BarColumn | MofNCompleteColumn):
                columns.remove(column)
        return columns

    def _width(self, column: ProgressColumn, task: Task) -> int:
        options = self.console.options.update(width=_UNLIMITED)
        return self.console.measure(column(task), options=options).maximum


def progress_bar(
    console: Console, *, transient: bool = True, disable: bool = False
) -> FittingProgress:
    """The bar of most commands: a description, finished items of all, and the time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return FittingProgress(
        *columns, console=console, transient=transient, redirect_stdout=False, disable=disable
    )


def _lines(table: Table) -> list[str]:
    headers = [_text(column.header) for column in table.columns]
    lines = [_text(table.title)] if table.title else []
    for row in zip(*(column.cells for column in table.columns)):
        lines += ["", *(f"{header} {_text(cell)}".strip() for header, cell in zip(headers, row))]
    return [*lines, "", _text(table.caption)] if table.caption else lines


def _plain(text: TextType | None) -> TextType | None:
    """A title without markup and control characters, because it holds names that others chose."""
    return Text(clean(text, keep="\n")) if isinstance(text, str) else text


def _text(cell: object) -> str:
    if isinstance(cell, Text):
        return cell.plain
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)
