"""The report of an export as rows, for the terminal and for the model card."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

_OUTPUTS = {
    "pooled": "pooled tokens",
    "frames": "frames",
    "ctc_logits": "logits of CTC",
    "logits": "logits of the decoder",
}
_SCORES = {"bleu4": "BLEU-4", "chrf": "chrF", "wer": "WER", "exact_match": "exact match"}


def report_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, before, after); `report` is what `compare` found."""
    size, latency, scores = report["size"], report["latency"], report.get("scores")
    rows = [
        (
            "size on disk",
            f"{_mb(size['float32_bytes'])} (float32)",
            f"{_mb(size['export_bytes'])}, {_share(size)}",
        )
    ]
    rows += [
        (f"largest value of {name}", f"{at['of']:.3g}", f"off by {at['largest']:.2g}")
        for key, name in _OUTPUTS.items()
        if (at := report["difference"].get(key))
    ]
    rows += [
        (
            f"one clip of {latency['frames']} frames to text, {latency['device']}",
            f"{latency['before']:.3f} s",
            f"{latency['after']:.3f} s",
        )
    ]
    for key, name in _SCORES.items() if scores else ():
        name = "CER" if key == "wer" and scores["before"].get("unit") == "character" else name
        said = [
            f"{100 * scores[side][key]:.1f} %"
            if key in ("wer", "exact_match")
            else f"{scores[side][key]:.1f}"
            for side in ("before", "after")
        ]
        rows.append(
            (f"{name}, {scores['decoder']}, {scores['clips']} clips of {scores['split']}", *said)
        )
    return rows


def report_table(report: Mapping[str, Any]) -> Table:
    table = Table(
        "",
        "before",
        "after",
        title=f"{report['format']} of checkpoint {report['checkpoint_step']:,}; INT8: {report['quantize'].replace('_', ' ')}",
    )
    for row in report_rows(report):
        table.add_row(*map(Text, row))  # names of splits are no markup
    return table


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _share(size: Mapping[str, int]) -> str:
    return f"{100 * size['export_bytes'] / size['float32_bytes']:.1f} %"
