"""Tables and progress bars that stay readable on a terminal of any width, and in a file."""

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
from rich.text import Text

from signvit_jax.runtime.streams import clean

_BAR, _SHORTEST_BAR = 40, 10  # characters


def print_table(table: Table, console: Console | None = None) -> None:
    """On standard output; row by row, one value a line, where the terminal is too narrow for the columns. A file has no width."""
    console = console or Console()
    table.title, table.caption = _plain(table.title), _plain(table.caption)
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    if needed <= console.width:
        console.print(table)
    elif not console.is_terminal:
        console.width = needed
        console.print(table)
    else:
        for line in _lines(table):
            console.print(line, soft_wrap=True, markup=False, highlight=False)


class FittingProgress(Progress):
    """A progress bar whose less important columns are left out where the terminal is too narrow for all: the bar itself first,
    then the others from the last on. How many of how many are done is always shown.
    """

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        tasks, everything = list(tasks), self.columns
        shown = [task for task in tasks if task.visible]
        if shown:
            self.columns = tuple(self._that_fit(shown))
        try:
            return super().make_tasks_table(tasks)
        finally:
            self.columns = everything

    def _that_fit(self, tasks: list[Task]) -> list[ProgressColumn]:
        columns = [column for column in self.columns if isinstance(column, ProgressColumn)]
        widths = {column: max(self._width(column, task) for task in tasks) for column in columns}

        def spare() -> int:
            return self.console.width - sum(widths[column] + 1 for column in columns) + 1

        for bar in [column for column in columns if isinstance(column, BarColumn)]:
            room = widths[bar] + spare()
            bar.bar_width, widths[bar] = min(max(room, _SHORTEST_BAR), _BAR), min(room, _BAR)
            if room < _SHORTEST_BAR:
                columns.remove(bar)
        for column in [
            column
            for column in reversed(columns)
            if not isinstance(column, BarColumn | MofNCompleteColumn)
        ]:
            if spare() < 0:
                columns.remove(column)
        return columns

    def _width(self, column: ProgressColumn, task: Task) -> int:
        return self.console.measure(
            column(task), options=self.console.options.update(width=10_000)
        ).maximum


def counted(console: Console, *, transient: bool = True, disable: bool = False) -> FittingProgress:
    """The bar of most commands: what is done, how many of how many, and the time that is left."""
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


def _plain(text: object) -> object:
    """Titles hold names that others have chosen: no markup in them."""
    return Text(clean(text, keep="\n")) if isinstance(text, str) else text


def _text(cell: object) -> str:
    return (
        cell.plain
        if isinstance(cell, Text)
        else Text.from_markup(cell).plain
        if isinstance(cell, str)
        else str(cell)
    )
