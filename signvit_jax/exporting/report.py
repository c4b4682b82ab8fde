"""The report of an export as rows, for the terminal and for the model card."""

from typing import Any, Literal, NotRequired, TypedDict

from rich.table import Table
from rich.text import Text

_OUTPUTS = {
    "pooled": "pooled tokens",
    "frames": "frames",
    "ctc_logits": "logits of CTC",
    "logits": "logits of the decoder",
    "gloss_logits": "logits of the decoder given glosses",
}
_SCORES = {"bleu4": "BLEU-4", "chrf": "chrF", "wer": "WER", "exact_match": "exact match"}


ScoreValues = dict[str, Any]  # the fields of `evaluation.metrics.Scores`: numbers and texts


class Sizes(TypedDict):
    """The size of the model: its parameters as float32 beside the files of the export."""

    parameters: int
    float32_bytes: int
    export_bytes: int


class Difference(TypedDict):
    """The largest difference of an output. `of`: the largest value of the original's output."""

    largest: float
    of: float


class Latency(TypedDict):
    """Median seconds from the frames of a clip to its text."""

    frames: int
    decoder: str
    device: str
    before: float
    after: float


class ComparedScores(TypedDict):
    """Scores of the model and of its export on the same clips."""

    split: str
    clips: int
    decoder: str
    before: ScoreValues
    after: ScoreValues


class Comparison(TypedDict):
    """An export compared with the model that it was made from."""

    size: Sizes
    difference: dict[str, Difference]  # by output
    latency: Latency
    scores: NotRequired[ComparedScores]  # if there was a split


class Report(Comparison):
    """The content of report.json."""

    format: str
    quantize: str
    checkpoint_step: int


def report_rows(report: Comparison) -> list[tuple[str, str, str]]:
    """Return (label, before, after) rows; `report` is the result of `compare`."""
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
    rows.append(
        (
            f"one clip of {latency['frames']} frames to text, {latency['device']}",
            f"{latency['before']:.3f} s",
            f"{latency['after']:.3f} s",
        )
    )
    return rows + _score_rows(scores) if scores else rows


def _score_rows(scores: ComparedScores) -> list[tuple[str, str, str]]:
    def shown(side: Literal["before", "after"], key: str) -> str:
        value = scores[side][key]
        return f"{100 * value:.1f} %" if key in ("wer", "exact_match") else f"{value:.1f}"

    clips = f"{scores['decoder']}, {scores['clips']} clips of {scores['split']}"
    by_character = scores["before"].get("unit") == "character"
    names = _SCORES | ({"wer": "CER"} if by_character else {})
    return [
        (f"{name}, {clips}", shown("before", key), shown("after", key))
        for key, name in names.items()
    ]


def report_table(report: Report) -> Table:
    """The report as a table for the terminal."""
    quantize = report["quantize"].replace("_", " ")
    title = f"{report['format']} of checkpoint {report['checkpoint_step']:,}; INT8: {quantize}"
    table = Table("", "before", "after", title=title)
    for row in report_rows(report):
        table.add_row(*map(Text, row))  # as text: the name of a split may look like markup
    return table


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _share(size: Sizes) -> str:
    return f"{100 * size['export_bytes'] / size['float32_bytes']:.1f} %"
