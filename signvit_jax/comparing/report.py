"""A comparison as a table for the terminal, an HTML page, and JSON."""

import dataclasses
import io
import json
from collections.abc import Sequence

from PIL import Image
from rich.table import Table

from signvit_jax.comparing.curves import curves_png
from signvit_jax.comparing.sides import Side
from signvit_jax.comparing.significance import Compared, Comparison, most_different
from signvit_jax.config.schema import flatten
from signvit_jax.reports.html_kit import header, image, page, paragraph, section, table, text
from signvit_jax.runtime.standard_streams import clean

SURE = 0.05  # differences with a larger p-value may be chance
_UNITS = {"word": "WER", "character": "CER", "gloss": "gloss error rate"}
_SHOWN_CLIPS = 30  # on the page

Difference = tuple[str, Sequence[object]]  # key of the config, its value in each run that has one


def score_table(sides: Sequence[Side], comparison: Comparison) -> Table:
    """The scores of one decoder, a row per system."""
    shown = Table(
        title=f"decoder {comparison.decoder}, {len(comparison.references):,} clips",
        title_justify="left",
    )
    shown.add_column("")
    for name in comparison.scores:
        shown.add_column(_metric_name(name, comparison), justify="right")
    for number, side in enumerate(sides):
        cells = [cell(scores[number]) for scores in comparison.scores.values()]
        shown.add_row(clean(side.name), *cells)
    return shown


def cell(compared: Compared) -> str:
    """A score with its interval, and the p-value of its difference to the first system."""
    shown = f"{compared.score:.2f} ± {compared.interval:.2f}"
    if compared.p_value is None:
        return shown
    mark = "*" if compared.p_value < SURE else ""
    return f"{shown} (p {compared.p_value:.3f}{mark})"


def config_differences(sides: Sequence[Side]) -> list[Difference]:
    """The keys in which the configs of the sides differ, with the value of each side.

    Sides without a config have None.
    """
    configs = [
        {} if side.config is None else flatten(dataclasses.asdict(side.config)) for side in sides
    ]
    known = [config for config in configs if config]
    first = known[0] if known else {}
    return [
        (key, [config.get(key) for config in configs])
        for key in first
        if any(config[key] != first[key] for config in known)
    ]


def as_html(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> str:
    """The page: scores, curves, what differs in the configs, and clips."""
    names = [side.name for side in sides]
    first = sides[0].results
    sections = [
        header(
            " / ".join(map(text, names)),
            f"{len(first.predictions):,} clips of {text(first.dataset)} {text(first.split)}; "
            f"steps {', '.join(f'{side.results.checkpoint_step:,}' for side in sides)}",
        )
    ]
    for comparison in comparisons:
        columns = ["", *(_metric_name(name, comparison) for name in comparison.scores)]
        rows = [
            [
                text(side.name),
                *(text(cell(scores[number])) for scores in comparison.scores.values()),
            ]
            for number, side in enumerate(sides)
        ]
        sections.append(
            section(
                f"Scores of {text(comparison.decoder)}", table(columns, rows), text(_explanation())
            )
            + paragraph(text(comparison.signature))
        )
    if (png := curves_png(sides)) is not None:
        with Image.open(io.BytesIO(png)) as curves:
            tag = image(curves.convert("RGB"), "PNG", 'class=sheet alt="curves of the runs"')
        sections.append(section("Curves", tag))
    differences = config_differences(sides)
    if differences:
        rows = [
            [text(key), *(text(_value(value)) for value in values)] for key, values in differences
        ]
        sections.append(section("Configs", table(["key", *names], rows, "text")))
    comparison = comparisons[0]
    articles = "".join(
        _clip(sides, comparison, place) for place in most_different(comparison, _SHOWN_CLIPS)
    )
    sections.append(
        section(
            "Clips that differ most",
            articles or paragraph("No clip has more errors in one than in another."),
            f"By errors per {comparison.unit} of the reference, decoder "
            f"{text(comparison.decoder)}.",
        )
    )
    return page(" / ".join(names), sections)


def as_json(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> str:
    """One JSON object:

    {"systems": [name], "decoders": {name: {"unit", "signature", "scores": {metric: [{"score",
    "interval", "p_value"}]}, "clips": [{"id", "errors"}]}}, "config": {key: [value]}}.

    Lists are in the order of the systems; clips are those that differ most, `errors` their rates.
    """
    document = {
        "systems": [side.name for side in sides],
        "decoders": {
            comparison.decoder: {
                "unit": comparison.unit,
                "signature": comparison.signature,
                "scores": {
                    name: [dataclasses.asdict(score) for score in scores]
                    for name, scores in comparison.scores.items()
                },
                "clips": [
                    {
                        "id": sides[0].results.predictions[comparison.clips[place]].id,
                        "errors": [errors[place].rate for errors in comparison.clip_errors],
                    }
                    for place in most_different(comparison, _SHOWN_CLIPS)
                ],
            }
            for comparison in comparisons
        },
        "config": dict(config_differences(sides)),
    }
    return json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n"


def clip_lines(sides: Sequence[Side], comparison: Comparison, count: int) -> list[str]:
    """The clips that differ most, as text."""
    lines = []
    for place in most_different(comparison, count):
        prediction = sides[0].results.predictions[comparison.clips[place]]
        lines += [f"{prediction.id}: {comparison.references[place]}"]
        lines += [
            f"  {errors[place].rate:6.1%}  {side.name}: {texts[place]}"
            for side, errors, texts in zip(sides, comparison.clip_errors, comparison.hypotheses)
        ]
    return [clean(line) for line in lines]


def explanation_line(samples: int) -> str:
    """What the numbers in a table mean."""
    return f"{_explanation()} {samples:,} resamples."


def _explanation() -> str:
    return (
        "± is half of the 95 % confidence interval; p is for the difference to the first row "
        f"(paired bootstrap over clips), * where it is below {SURE:g}."
    )


def _metric_name(name: str, comparison: Comparison) -> str:
    return _UNITS.get(comparison.unit, name) if name == "WER" else name


def _clip(sides: Sequence[Side], comparison: Comparison, place: int) -> str:
    prediction = sides[0].results.predictions[comparison.clips[place]]
    rows = [["reference", text(comparison.references[place]), ""]]
    rows += [
        [
            text(side.name),
            text(texts[place]) or "<span class=soft>no text</span>",
            f"{errors[place].rate:.0%}",
        ]
        for side, errors, texts in zip(sides, comparison.clip_errors, comparison.hypotheses)
    ]
    body = "".join(
        f"<dt>{name} <span class=soft>{rate}</span></dt><dd>{words}</dd>"
        for name, words, rate in rows
    )
    return f"<article><h3>{text(prediction.id)}</h3><dl>{body}</dl></article>"


def _value(value: object) -> str:
    return "" if value is None else str(value)
