"""Scores as a table, for the terminal and the report."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from signvit_jax.evaluation.metrics import Scores

_COLUMNS = {
    "BLEU-1": lambda s: f"{s.bleu1:.2f}",
    "BLEU-2": lambda s: f"{s.bleu2:.2f}",
    "BLEU-3": lambda s: f"{s.bleu3:.2f}",
    "BLEU-4": lambda s: f"{s.bleu4:.2f}",
    "chrF": lambda s: f"{s.chrf:.2f}",
    "ROUGE-L": lambda s: f"{s.rouge_l:.2f}",
    "WER": lambda s: f"{s.wer:.1%}",
    "exact": lambda s: f"{s.exact_match:.1%}",
}


def table_cells(scores: Mapping[str, Scores]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows as text, one row per decoder, for the terminal and the report.

    The error rate is named CER if characters were counted. Rows of glosses are marked.
    """
    units = {s.unit for s in scores.values()}
    rate = "WER"
    if units == {"character"}:
        rate = "CER"
    elif "character" in units:
        rate = "CER/WER"
    header = ["decoder", *(rate if column == "WER" else column for column in _COLUMNS)]
    rows = []
    for name, s in scores.items():
        title = f"{name} (glosses)" if s.unit == "gloss" else name
        rows.append([title, *(show(s) for show in _COLUMNS.values())])
    return header, rows


def unit_notes(scores: Mapping[str, Scores]) -> list[str]:
    """Return notes on decoders whose figures are not about the words of every clip."""
    notes = []
    if by_character := [name for name, s in scores.items() if s.unit == "character"]:
        notes.append(f"{', '.join(by_character)}: error rate by character (CER)")
    for name, s in scores.items():
        if s.unit == "gloss":
            notes.append(
                f"{name}: scored against the glosses of the {s.examples:,} clips that have them"
            )
    return notes


def format_table(scores: Mapping[str, Scores], title: str | None = None) -> Table:
    """Return a rich table, one row per decoder and one column per metric.

    Its caption holds the notes on units and the sacreBLEU signatures.
    """
    header, rows = table_cells(scores)
    signatures = sorted({s.signature for s in scores.values() if s.signature})
    notes = [*unit_notes(scores), *(f"BLEU {signature}" for signature in signatures)]
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption="\n".join(notes) or None
    )
    for column in header:
        table.add_column(column, justify="left" if column == "decoder" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
