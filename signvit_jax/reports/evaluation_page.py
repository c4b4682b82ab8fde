"""An evaluation as one HTML page: scores, clips with their texts, and where the errors are."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from signvit_jax.evaluation import confidence_reliability
from signvit_jax.evaluation.metrics import (
    Edit,
    Scores,
    WordErrors,
    confusions,
)
from signvit_jax.evaluation.results import Results
from signvit_jax.evaluation.score_groups import MAX_ROWS, columns_of, errors_by
from signvit_jax.evaluation.score_table import table_cells, unit_notes
from signvit_jax.evaluation.scored_clips import (
    ClipImages,
    HeatMap,
    ScoredClip,
    first_clips,
    main_decoder,
    score_clips,
    worst_and_best,
)
from signvit_jax.files.atomic import write_atomically
from signvit_jax.media.contact_sheet import COLUMNS, contact_sheet
from signvit_jax.reports.html_kit import header, image, page, paragraph, section, table, text
from signvit_jax.text import writing_systems
from signvit_jax.text.tokenizer import unknown_note

# Bins by the number of words of the reference.
_LENGTH_BINS = ((0, 3), (4, 6), (7, 9), (10, 14), (15, 19), (20, 29), (30, math.inf))
# The page's word for the unit that the scores count.
_UNITS = {"word": "word", "character": "character", "gloss": "sign"}
_MAX_WORD_ROWS = 20
# Heat maps vary the opacity of one color, which suits a light and a dark page.
_HEAT_MAP_COLOR = (37, 99, 168)


def render(
    results: Results, clip_images: Mapping[str, ClipImages] | None = None, count: int = 8
) -> str:
    """Return the page's HTML.

    `clip_images` are by clip id; only those of the first clips (`first_clips`) and of the `count`
    worst and the `count` best clips (`worst_and_best`) are shown. Raises ResultsError for results
    without a decoder.
    """
    clip_images = clip_images or {}
    decoder = main_decoder(results)
    clips = score_clips(results)
    worst, best = worst_and_best(clips, decoder, count)
    unit = _UNITS[results.decoders[decoder].unit]
    step = f"{results.checkpoint_step:,}"
    title = header(
        f"{text(results.dataset)} <span class=soft>{text(results.split)}</span>",
        f"{len(clips):,} clip{'' if len(clips) == 1 else 's'}, checkpoint of step {step}; "
        f"the errors and clips below are those of the decoder <b>{text(decoder)}</b>",
    )
    first = "".join(
        _first_clip(clip, decoder, results.decoders[decoder], clip_images)
        for clip in first_clips(clips, decoder)
    )

    def articles(chosen: Iterable[ScoredClip], if_none: str) -> str:
        shown = (
            _clip(clip, decoder, results.decoders, clip_images.get(clip.prediction.id))
            for clip in chosen
        )
        return "".join(shown) or f"<p>{if_none}</p>"

    sections = [
        title,
        section("Scores", _scores(results)),
        section("First clips", first, "The first clips of the split, whatever their scores."),
        section("Worst clips", articles(worst, "No clip has an error.")),
        section("Best clips", articles(best, "Every clip is shown above.")),
        *_error_sections(results, clips, decoder, unit),
    ]
    for name in results.gloss_decoders:
        if name in results.decoders and name != decoder:
            sections += _gloss_sections(clips, name)
    if results.confidence:
        sections.append(section("Confidence", _confidence(results, decoder), _CONFIDENCE_NOTE))
    return page(
        f"{results.dataset} {results.split}, step {results.checkpoint_step}", sections, _STYLE
    )


def write_report(
    results: Results,
    path: Path | str,
    clip_images: Mapping[str, ClipImages] | None = None,
    count: int = 8,
) -> None:
    """Write the page of `render` atomically; missing folders are created. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(results, clip_images, count))


def _error_sections(
    results: Results, clips: Sequence[ScoredClip], decoder: str, unit: str
) -> list[str]:
    """Sections on the errors by length, by each column and by word, and the confused words."""
    decoders = list(results.decoders)
    return [
        section("Error by sentence length", _error_by_length(clips, decoders, unit)),
        *(
            section(
                f"Error by {text(column)}",
                _error_by_group(clips, column, decoders),
                "The group with the most errors first.",
            )
            for column in columns_of(results)
        ),
        section(
            f"Most confused {unit}s",
            _confusions(clips, decoder, unit),
            f"Reference → hypothesis; ∅ stands for a {unit} that is missing on that side.",
        ),
        section(
            f"Error by {unit}",
            _error_by_word(clips, decoder, unit),
            f"The {unit}s of the references that were missed most often: substituted or left out.",
        ),
    ]


def _scores(results: Results) -> str:
    """Table of scores, notes on what they count, and the signatures of the metrics."""
    columns, rows = table_cells(results.decoders)
    notes = [
        *unit_notes(results.decoders),
        *(
            f"{name}: gloss error rate by PHOENIX's rules {rate:.1%}"
            for name, rate in results.phoenix_gloss_wer.items()
        ),
    ]
    if note := unknown_note(results.unknown):
        notes.append(f"references: {note}")
    signatures = {f"BLEU {scores.signature}" for scores in results.decoders.values()}
    signatures |= {f"chrF {scores.chrf_signature}" for scores in results.decoders.values()}
    return (
        table(columns, _escape(rows))
        + "".join(paragraph(text(note)) for note in notes)
        + "".join(paragraph(text(signature), "signature") for signature in sorted(signatures))
    )


def _confidence(results: Results, decoder: str) -> str:
    """Table of all decoders' figures, and for `decoder` the share of right ones by confidence."""
    columns, rows = confidence_reliability.table_cells(results.confidence)
    tables = table(columns, _escape(rows))
    if confidence := results.confidence.get(decoder):
        by_kind = {"sentences": confidence.sentence, "words": confidence.word}
        for kind, measured in by_kind.items():
            rows = [
                [_bar(one.confidence), _bar(one.right), f"{one.count:,}"] for one in measured.bins
            ]
            tables += f"<h3>{text(decoder)}, {kind}</h3>"
            tables += table(["confidence", "right", kind], rows)
    return tables


def _escape(rows: Iterable[Iterable[object]]) -> list[list[str]]:
    return [[text(cell) for cell in row] for row in rows]


def _error_by_length(clips: Sequence[ScoredClip], decoders: Sequence[str], unit: str) -> str:
    """Table of the error rates of each decoder by the length of the reference."""
    clips = [clip for clip in clips if decoders[0] in clip.alignments]
    lengths = [clip.errors(decoders[0]).reference_words for clip in clips]
    rows = []
    for low, high in _LENGTH_BINS:
        inside = [clip for clip, length in zip(clips, lengths) if low <= length <= high]
        if inside:
            errors = [sum((c.errors(name) for c in inside), WordErrors()) for name in decoders]
            label = f"{low}–{high}" if math.isfinite(high) else f"{low} and more"
            rows.append([label, f"{len(inside):,}", *(_bar(error.rate) for error in errors)])
    return table([f"{unit}s", "clips", *decoders], rows)


def _error_by_group(clips: Sequence[ScoredClip], column: str, decoders: Sequence[str]) -> str:
    """Table of the error rates of each decoder by the values of a column."""
    groups = errors_by(clips, column, decoders)
    rows = [
        [text(group.value), f"{group.clips:,}", *(_bar(e.rate) for e in group.errors.values())]
        for group in groups[:MAX_ROWS]
    ]
    left_out = len(groups) - MAX_ROWS
    note = paragraph(f"And {left_out:,} more, with fewer errors.") if left_out > 0 else ""
    return table([text(column), "clips", *decoders], rows) + note


def _confusions(clips: Sequence[ScoredClip], decoder: str, unit: str) -> str:
    counts = confusions(clip.alignments.get(decoder, []) for clip in clips)
    if not counts:
        return f"<p>No {unit} was confused.</p>"
    rows = [
        [text(reference or "∅"), text(hypothesis or "∅"), f"{times:,}"]
        for (reference, hypothesis), times in counts.most_common(_MAX_WORD_ROWS)
    ]
    return table(["reference", "hypothesis", "times"], rows)


def _error_by_word(clips: Sequence[ScoredClip], decoder: str, unit: str) -> str:
    occurrences: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for clip in clips:
        for edit in clip.alignments.get(decoder, []):
            if edit.reference is not None:
                occurrences[edit.reference] += 1
                if edit.operation != "match":
                    missed[edit.reference] += 1
    if not missed:
        return f"<p>No {unit} was missed.</p>"
    rows = [
        [text(word), f"{occurrences[word]:,}", f"{times:,}", _bar(times / occurrences[word])]
        for word, times in missed.most_common(_MAX_WORD_ROWS)
    ]
    return table([unit, "occurrences", "missed", "share"], rows)


def _gloss_sections(clips: Sequence[ScoredClip], decoder: str) -> list[str]:
    """Errors by sign of a decoder whose output is glosses."""
    note = f"Glosses as {text(decoder)} decodes them."
    return [
        section("Error by sign", _error_by_word(clips, decoder, "sign"), note),
        section("Most confused signs", _confusions(clips, decoder, "sign"), note),
    ]


def _first_clip(
    clip: ScoredClip, decoder: str, scores: Scores, clip_images: Mapping[str, ClipImages]
) -> str:
    """Article of one clip, in short: frames, reference, and the hypothesis of `decoder`."""
    prediction = clip.prediction
    images = clip_images.get(prediction.id)
    frames = _frames(images, one_row=True) if images else ""
    hypothesis = _mark_edits(clip.alignments[decoder], scores)
    return (
        f"<article>{frames}<dl><dt>reference</dt><dd>{text(prediction.reference)}</dd>"
        f"<dt>{text(decoder)}</dt><dd>{hypothesis or _NO_TEXT}</dd></dl></article>"
    )


def _clip(
    clip: ScoredClip, decoder: str, scores: Mapping[str, Scores], clip_images: ClipImages | None
) -> str:
    """Article of one clip: its error rate, its texts and its images."""
    prediction = clip.prediction
    texts = [("reference", text(prediction.reference))]
    if gloss := prediction.details.get("gloss"):
        texts.append(("gloss", text(gloss)))
    for name, decoder_scores in scores.items():
        if name in clip.alignments:
            hypothesis = _mark_edits(clip.alignments[name], decoder_scores)
        else:
            hypothesis = text(prediction.hypotheses[name])
        texts.append((text(name), hypothesis or _NO_TEXT))

    errors = clip.errors(decoder)
    unit = scores[decoder].unit
    rate = f"{'CER' if unit == 'character' else 'WER'} {errors.rate:.0%}"
    details = f"{errors.errors} of {errors.reference_words} {_UNITS[unit]}s wrong"
    if prediction.score is not None:
        details += f", score {prediction.score:.3f}"
    return (
        f"<article><h3>{text(prediction.id)} "
        f"<span class={'bad' if errors.errors else 'soft'}>{rate}</span> "
        f"<span class=soft>{details}</span></h3>"
        f"<dl>{''.join(f'<dt>{term}</dt><dd>{value}</dd>' for term, value in texts)}</dl>"
        f"{_images(clip_images) if clip_images else ''}</article>"
    )


def _mark_edits(edits: Iterable[Edit], scores: Scores) -> str:
    """The hypothesis with its differences from the reference marked.

    Spaces stand between units where the scores or the script have them.
    """
    by_character = "tok:char" in scores.signature.split("|")
    marked, previous = "", ""
    for edit in edits:
        word = edit.hypothesis if edit.hypothesis is not None else edit.reference or ""
        spaced = scores.unit == "gloss" or (
            not by_character and writing_systems.sets_apart(previous, word)
        )
        marked += (" " if spaced and marked else "") + _mark_edit(edit)
        previous = word
    return marked


def _mark_edit(edit: Edit) -> str:
    if edit.operation == "substitute":
        title = f"instead of {text(edit.reference)}"
        return f'<mark title="{title}">{text(edit.hypothesis)}</mark>'
    if edit.operation == "insert":
        return f"<ins>{text(edit.hypothesis)}</ins>"
    if edit.operation == "delete":
        return f"<del>{text(edit.reference)}</del>"
    return text(edit.hypothesis)


def _images(clip_images: ClipImages) -> str:
    images = _frames(clip_images)
    for heat_map in clip_images.heat_maps:
        if np.size(heat_map.values):
            images += _heat_map(heat_map)
    return images


def _frames(clip_images: ClipImages, *, one_row: bool = False) -> str:
    """The contact sheet of a clip; a single row with `one_row`. "" without frames."""
    if clip_images.frames is None or not len(clip_images.frames):
        return ""
    sheet = contact_sheet(clip_images.frames, max_frames=COLUMNS if one_row else 2 * COLUMNS)
    return image(sheet, attributes='class=sheet alt="frames of the clip"')


def _heat_map(heat_map: HeatMap) -> str:
    opacity = (np.clip(np.nan_to_num(heat_map.values), 0.0, 1.0) * 255).round().astype(np.uint8)
    color = np.broadcast_to(np.array(_HEAT_MAP_COLOR, np.uint8), (*opacity.shape, 3))
    rgba = Image.fromarray(np.concatenate([color, opacity[..., None]], axis=-1))
    tokens = "".join(f"<span>{text(token)}</span>" for token in heat_map.tokens)
    # The height is that of the tokens' lines, so that each row of the map is beside its token.
    height = f'alt="" style="height:{1.25 * len(heat_map.tokens)}rem"'
    return (
        f"<figure><figcaption>{text(heat_map.title)}, time from left to right</figcaption>"
        f"<div class=map><div>{tokens}</div>{image(rgba, 'PNG', height)}</div></figure>"
    )


def _bar(rate: float) -> str:
    return f'<span class=bar style="--share:{min(rate, 1.0):.1%}">{rate:.1%}</span>'


_NO_TEXT = "<span class=soft>no text</span>"

_CONFIDENCE_NOTE = (
    "AUC: probability that a right output has a higher confidence than a wrong one (0.5 is "
    "chance). Error: gap between confidence and share of right outputs, mean of ten bins of equal "
    "count. In brackets the range of 95 % of bootstrap samples of clips. A sentence is right if "
    "it equals the reference, a word if the alignment matches it."
)

_STYLE = """
.signature { font: .8rem/1.4 ui-monospace, monospace; color: var(--soft); margin: .35rem 0 0; }
.bar {
  display: inline-block; width: 8rem; text-align: left; padding: 0 .4rem;
  background: linear-gradient(var(--tint) 0 0) 0 / var(--share) 100% no-repeat;
}
mark { color: var(--bad); background: none; }
del { color: var(--soft); }
ins { color: var(--good); text-decoration: underline dotted; }
.map {
  display: grid; grid-template-columns: fit-content(40%) minmax(0, 1fr); gap: .7rem;
  font-size: .8rem; line-height: 1.25rem;
}
.map div { text-align: right; overflow: hidden; }
.map span { display: block; height: 1.25rem; white-space: nowrap; }
.map img { width: 100%; image-rendering: pixelated; background: var(--tint); }
"""
