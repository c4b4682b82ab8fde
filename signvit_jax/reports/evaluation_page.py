"""An evaluation as one self-contained HTML page: scores, where the errors are, and the worst and best clips to look at.

The page needs no script and loads nothing: the style is inline, pictures are data URIs, and its content-security policy forbids everything else.
"""

import base64
import html
import io
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from signvit_jax.evaluation import reliability
from signvit_jax.evaluation.metrics import (
    Edit,
    Scores,
    WordErrors,
    confusions,
    table_cells,
    unit_notes,
)
from signvit_jax.evaluation.results import Results
from signvit_jax.evaluation.scored_clips import (
    ClipImages,
    HeatMap,
    ScoredClip,
    main_decoder,
    score_clips,
    worst_and_best,
)
from signvit_jax.text import scripts
from signvit_jax.text.tokenizer import unknown_note

_LENGTH_BINS = (
    (0, 3),
    (4, 6),
    (7, 9),
    (10, 14),
    (15, 19),
    (20, 29),
    (30, math.inf),
)  # words of the reference
_UNITS = {
    "word": "word",
    "character": "character",
    "gloss": "sign",
}  # what the page calls what was counted
_MOST_LISTED = 20  # rows of the tables of words
_SHEET_FRAMES, _SHEET_COLUMNS, _SHEET_HEIGHT = 16, 8, 112
_INK = (
    37,
    99,
    168,
)  # a heat map is this color, more or less opaque, so that it suits a light and a dark page


def render(
    results: Results, pictures: Mapping[str, ClipImages] | None = None, count: int = 8
) -> str:
    """The page's HTML. `pictures` are by clip id; only those of the `count` worst and best clips (see `worst_and_best`) are drawn."""
    decoder, clips, pictures = main_decoder(results), score_clips(results), pictures or {}
    worst, best = worst_and_best(clips, decoder, count)
    unit = _UNITS[results.decoders[decoder].unit]
    name = f"{_text(results.dataset)} <span class=soft>{_text(results.split)}</span>"
    examples = f"{len(clips):,} clip{'' if len(clips) == 1 else 's'}, checkpoint of step {results.checkpoint_step:,}"
    note = f"Reference → hypothesis; ∅ is a {unit} left out or put in."
    shown = {
        kind: "".join(
            _clip(clip, decoder, results.decoders, pictures.get(clip.prediction.id))
            for clip in some
        )
        for kind, some in (("worst", worst), ("best", best))
    }
    sections = [
        f"<header><h1>{name}</h1><p class=soft>{examples}; errors and clips below are those of the decoder <b>{_text(decoder)}</b></p></header>",
        _section("Scores", _scores(results)),
        _section("Error by sentence length", _by_length(clips, list(results.decoders), unit)),
        _section(f"Most confused {unit}s", _confused(clips, decoder, unit), note),
        _section(
            f"Error by {unit}",
            _by_word(clips, decoder, unit),
            f"The {unit}s of the references that were missed most often: swapped or left out.",
        ),
        *(
            section
            for name in results.gloss_decoders
            if name in results.decoders and name != decoder
            for section in _signs(clips, name)
        ),
        *(
            [_section("Confidence", _confidence(results, decoder), _CONFIDENCE_NOTE)]
            if results.confidence
            else []
        ),
        _section("Worst clips", shown["worst"] or "<p>No clip has an error.</p>"),
        _section("Best clips", shown["best"] or "<p>Every clip is shown above.</p>"),
    ]
    return _page(
        f"{results.dataset} {results.split}, step {results.checkpoint_step}", "\n".join(sections)
    )


def write_report(
    results: Results,
    path: Path | str,
    pictures: Mapping[str, ClipImages] | None = None,
    count: int = 8,
) -> None:
    """Writes `render`'s page, whole or not at all; folders are made. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(render(results, pictures, count), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def contact_sheet(frames: UInt8[np.ndarray, "t h w 3"]) -> Image.Image:
    """Up to 16 frames, evenly spread from the first to the last, as small pictures in rows of 8."""
    chosen = frames[
        np.linspace(0, len(frames) - 1, min(len(frames), _SHEET_FRAMES)).round().astype(int)
    ]
    width = max(1, round(_SHEET_HEIGHT * frames.shape[2] / frames.shape[1]))
    columns = min(len(chosen), _SHEET_COLUMNS)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(chosen) / columns) * _SHEET_HEIGHT))
    for number, frame in enumerate(chosen):
        row, column = divmod(number, columns)
        sheet.paste(
            Image.fromarray(frame).resize((width, _SHEET_HEIGHT)),
            (column * width, row * _SHEET_HEIGHT),
        )
    return sheet


def _scores(results: Results) -> str:
    header, rows = table_cells(results.decoders)
    signatures = sorted(
        {
            s
            for scores in results.decoders.values()
            for s in (f"BLEU {scores.signature}", f"chrF {scores.chrf_signature}")
        }
    )
    notes = unit_notes(results.decoders)
    notes += [
        f"{name}: gloss error rate by PHOENIX's rules {rate:.1%}"
        for name, rate in results.phoenix_gloss_wer.items()
    ]
    notes += [f"references: {note}"] if (note := unknown_note(results.unknown)) else []
    table = _table(header, [[_text(cell) for cell in row] for row in rows])
    return (
        table
        + "".join(f"<p class=soft>{_text(s)}</p>" for s in notes)
        + "".join(f"<p class=signature>{_text(s)}</p>" for s in signatures)
    )


def _confidence(results: Results, decoder: str) -> str:
    """Figures of every decoder, and of the report's own how often it is right where it is how sure."""
    header, rows = reliability.table_cells(results.confidence)
    tables = _table(header, [[_text(cell) for cell in row] for row in rows])
    if found := results.confidence.get(decoder):
        for kind, bins in (("sentences", found.sentence.bins), ("words", found.word.bins)):
            shown = [[_bar(one.confidence), _bar(one.right), f"{one.count:,}"] for one in bins]
            tables += f"<h3>{_text(decoder)}, {kind}</h3>" + _table(
                ["confidence", "right", kind], shown
            )
    return tables


def _by_length(clips: Sequence[ScoredClip], decoders: Sequence[str], unit: str) -> str:
    clips = [clip for clip in clips if decoders[0] in clip.alignments]
    rows, lengths = [], [clip.errors(decoders[0]).reference_words for clip in clips]
    for low, high in _LENGTH_BINS:
        inside = [clip for clip, words in zip(clips, lengths) if low <= words <= high]
        if inside:
            rates = [
                sum((clip.errors(name) for clip in inside), WordErrors()).rate for name in decoders
            ]
            span = f"{low}–{high}" if math.isfinite(high) else f"{low} and more"
            rows.append([span, f"{len(inside):,}", *map(_bar, rates)])
    return _table([f"{unit}s", "clips", *decoders], rows)


def _confused(clips: Sequence[ScoredClip], decoder: str, unit: str) -> str:
    counted = confusions(clip.alignments.get(decoder, []) for clip in clips).most_common(
        _MOST_LISTED
    )
    if not counted:
        return f"<p>No {unit} was confused.</p>"
    return _table(
        ["reference", "hypothesis", "times"],
        [[_text(pair[0] or "∅"), _text(pair[1] or "∅"), f"{times:,}"] for pair, times in counted],
    )


def _by_word(clips: Sequence[ScoredClip], decoder: str, unit: str) -> str:
    said, missed = Counter(), Counter()
    for clip in clips:
        words = [
            (edit.reference, edit.operation)
            for edit in clip.alignments.get(decoder, [])
            if edit.reference is not None
        ]
        said.update(word for word, _ in words)
        missed.update(word for word, operation in words if operation != "match")
    if not missed:
        return f"<p>No {unit} was missed.</p>"
    rows = [
        [_text(word), f"{said[word]:,}", f"{times:,}", _bar(times / said[word])]
        for word, times in missed.most_common(_MOST_LISTED)
    ]
    return _table([unit, "occurrences", "missed", "share"], rows)


def _signs(clips: Sequence[ScoredClip], decoder: str) -> list[str]:
    """What a decoder that spells glosses says of the signs themselves."""
    note = f"Glosses as {_text(decoder)} spells them."
    return [
        _section("Error by sign", _by_word(clips, decoder, "sign"), note),
        _section("Most confused signs", _confused(clips, decoder, "sign"), note),
    ]


def _clip(
    clip: ScoredClip, decoder: str, scores: Mapping[str, Scores], pictures: ClipImages | None
) -> str:
    errors, unit = clip.errors(decoder), scores[decoder].unit
    texts = [f"<dt>reference</dt><dd>{_text(clip.prediction.reference)}</dd>"]
    if gloss := clip.prediction.details.get("gloss"):
        texts.append(f"<dt>gloss</dt><dd>{_text(str(gloss))}</dd>")
    for name, own in scores.items():
        said = (
            _marked(clip.alignments[name], own)
            if name in clip.alignments
            else _text(clip.prediction.hypotheses[name])
        )
        texts.append(f"<dt>{_text(name)}</dt><dd>{said or '<span class=soft>no text</span>'}</dd>")
    score = "" if clip.prediction.score is None else f", score {clip.prediction.score:.3f}"
    counts = f"{errors.errors} of {errors.reference_words} {_UNITS[unit]}s{score}"
    return (
        f"<article><h3>{_text(clip.prediction.id)} "
        f"<span class={'rate' if errors.errors else 'soft'}>{'CER' if unit == 'character' else 'WER'} {errors.rate:.0%}</span> "
        f"<span class=soft>{counts}</span></h3><dl>{''.join(texts)}</dl>{_drawn(pictures) if pictures else ''}</article>"
    )


def _marked(edits: Iterable[Edit], scores: Scores) -> str:
    """The hypothesis with what differs from the reference marked, spaces where its script has them."""
    marks = {
        "match": lambda e: _text(e.hypothesis),
        "substitute": lambda e: (
            f'<mark title="instead of {_text(e.reference)}">{_text(e.hypothesis)}</mark>'
        ),
        "insert": lambda e: f"<ins>{_text(e.hypothesis)}</ins>",
        "delete": lambda e: f"<del>{_text(e.reference)}</del>",
    }
    by_character = "tok:char" in scores.signature.split("|")
    shown, before = "", ""
    for edit in edits:
        after = edit.hypothesis if edit.hypothesis is not None else edit.reference
        apart = scores.unit == "gloss" or (not by_character and scripts.sets_apart(before, after))
        shown += (" " if apart and shown else "") + marks[edit.operation](edit)
        before = after
    return shown


def _drawn(pictures: ClipImages) -> str:
    drawn = ""
    if pictures.frames is not None and len(pictures.frames):
        drawn += f'<img class=sheet alt="frames of the clip" src="{_data_uri(contact_sheet(pictures.frames), "JPEG")}">'
    return drawn + "".join(
        _heat_map(heat_map) for heat_map in pictures.heat_maps if np.size(heat_map.values)
    )


def _heat_map(heat_map: HeatMap) -> str:
    opacity = (np.clip(np.nan_to_num(heat_map.values), 0.0, 1.0) * 255).round().astype(np.uint8)
    picture = np.concatenate(
        [np.broadcast_to(np.array(_INK, np.uint8), (*opacity.shape, 3)), opacity[..., None]],
        axis=-1,
    )
    names = "".join(f"<span>{_text(token)}</span>" for token in heat_map.tokens)
    # As high as the names beside it: stretched by its own proportions it would run away from them.
    image = f'<img alt="" style="height:{1.25 * len(heat_map.tokens)}rem" src="{_data_uri(Image.fromarray(picture), "PNG")}">'
    return f"<figure><figcaption>{_text(heat_map.title)}, time from left to right</figcaption><div class=map><div>{names}</div>{image}</div></figure>"


def _data_uri(image: Image.Image, format: str) -> str:
    file = io.BytesIO()
    image.save(file, format, quality=80)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{title}</h2>{f'<p class=soft>{note}</p>' if note else ''}{body}</section>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML, the header is text."""
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bar(rate: float) -> str:
    return f'<span class=bar style="--share:{min(rate, 1.0):.1%}">{rate:.1%}</span>'


def _text(text: str) -> str:
    """Text that cannot become markup; characters that HTML forbids or no file can hold show as the replacement character."""
    shown = (
        c if c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text
    )
    return html.escape("".join(shown))


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


_CONFIDENCE_NOTE = (
    "AUC: how often a right one has more confidence than a wrong one (0.5 is chance). Error: the gap between confidence and share of right, "
    "mean of ten bins of equal count. In brackets 95 % of bootstrap samples of clips. A sentence is right letter for letter, a word where the "
    "alignment matches it."
)

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c1f24; --paper: #fdfdfc; --soft: #6b7280; --line: #e3e5e8; --tint: #2563a81f; --bad: #b3261e; --good: #1d7a46;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --paper: #15171a; --soft: #9aa1ab; --line: #2b2f35; --tint: #6ea8e233; --bad: #ff8a80; --good: #7fd3a0; }
}
body { margin: 3rem auto; max-width: 62rem; padding: 0 1.25rem; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; font-weight: 650; margin: 0; } h2 { font-size: 1.15rem; margin: 3rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.soft, figcaption, dt { color: var(--soft); font-weight: 400; } .rate { color: var(--bad); }
.signature { font: .8rem/1.4 ui-monospace, monospace; color: var(--soft); margin: .35rem 0 0; overflow-wrap: anywhere; }
section { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--soft); } th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; width: 8rem; text-align: left; padding: 0 .4rem;
  background: linear-gradient(var(--tint) 0 0) 0 / var(--share) 100% no-repeat; }
article { border-top: 1px solid var(--line); padding: 1.1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; } dd { margin: 0; overflow-wrap: anywhere; }
mark { color: var(--bad); background: none; } del { color: var(--soft); } ins { color: var(--good); text-decoration: underline dotted; }
.sheet { display: block; max-width: 100%; margin-top: .9rem; border-radius: 4px; }
figure { margin: 1rem 0 0; } figcaption { font-size: .85rem; margin-bottom: .25rem; }
.map { display: grid; grid-template-columns: max-content 1fr; gap: .7rem; font-size: .8rem; line-height: 1.25rem; }
.map div { text-align: right; } .map span { display: block; height: 1.25rem; white-space: nowrap; }
.map img { width: 100%; image-rendering: pixelated; background: var(--tint); }
"""
