"""Tables and progress bars at every width."""

import io

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from signvit_jax.evaluation.metrics import score
from signvit_jax.evaluation.score_table import format_table
from signvit_jax.runtime.terminal import FittingProgress, print_table, progress_bar


def console(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def table() -> Table:
    return format_table({"greedy": score(["a b c d e"], ["a b c d e"])}, "[red]name\x1b: 1 clip")


@pytest.mark.parametrize("width", [1, 20, 40, 60, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_shows_all_cells_at_every_width(width, terminal):
    shown = console(width, terminal)
    print_table(table(), shown)
    text = shown.file.getvalue()
    words = [
        "decoder",
        "greedy",
        "BLEU-1",
        "BLEU-4",
        "chrF",
        "ROUGE-L",
        "WER",
        "exact",
        "100.00",
        "0.0%",
        "100.0%",
    ]
    assert (
        [word for word in words if word not in text] == [] and "…" not in text and "..." not in text
    )
    # Markup and control characters in a title, which has a user's file name, are shown as text.
    assert "\x1b" not in text
    assert "[red]name\\x1b" in "".join(text.split()).replace(":1clip", "")


def test_a_narrow_terminal_gets_one_value_per_line():
    shown = console(20)
    print_table(table(), shown)
    assert "BLEU-4 100.00" in shown.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [8, 20, 30, 50, 80, 200])
def test_a_progress_bar_always_shows_count_and_total(width):
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("figures of the step"),
        TimeRemainingColumn(),
    )
    shown = console(width)
    with FittingProgress(*columns, console=shown) as bar:
        bar.add_task("translating", total=120, completed=37)
    last = [line for line in shown.file.getvalue().split("\r") if "/120" in line][-1]
    assert "37/120" in last and "…" not in last
    assert ("figures of the step" in last) == (width >= 50)
    assert ("━" in last) == (width >= 80)


def test_a_bar_without_a_total_and_a_hidden_one_are_drawn():
    shown = console(20)
    with progress_bar(shown) as bar:
        bar.add_task("scoring", total=None)
        bar.add_task("hidden", total=3, visible=False)
    assert "0/?" in shown.file.getvalue()
