"""The page of `signvit_jax.data_report`: facts of a data set as HTML that needs no script and loads nothing."""

import base64
import html
import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from signvit_jax.config.schema import Config
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.dataset import DatasetError, Record, SignDataset, Split
from signvit_jax.data.sampling import sample_frames
from signvit_jax.media.frames import FrameDecodeError
from signvit_jax.reports.dataset_stats import SplitFacts

_SHEET_FRAMES, _SHEET_SIZE = 16, 96
_BINS = 24
_LISTED = 50


def render(
    name: str,
    dataset: SignDataset,
    facts: Sequence[SplitFacts],
    config: Config,
    report: Mapping[str, Any],
    clips: int,
) -> str:
    """The page's HTML. `report` is the builder's build_report.json, or {}; `clips` are shown of each split."""
    data = config.data
    sampling = f"{data.sampling}, at most {data.num_frames} frames" + (
        f" at {data.frame_rate:g} a second" if data.sampling != "even" else ""
    )
    shown = (
        "".join(_clips(dataset.split(split.name), config, clips) for split in facts)
        if clips
        else ""
    )
    sections = [
        f"<header><h1>{_text(name)}</h1><p class=soft>{_text(dataset.folder)}; frame sampling: {_text(sampling)}</p></header>",
        _section("Splits", _splits(facts)),
        _section("Lengths", "".join(map(_lengths, facts))),
        _section(
            "Words",
            _vocabulary(facts),
            "Without regard to case; of scripts without spaces, characters; unseen: not in the training split.",
        ),
        _section(
            "CTC",
            _ctc(facts, config),
            "A clip cannot align if its labels, and a blank between equal ones, need more steps than there are.",
        ),
        _section("Signers", _signers(facts)),
        _section("Notes of the builder", _notes(report)),
        _section(
            "Not built",
            _failed(report),
            "What the builder could not read, with its reason: quarantined, not in the records.",
        ),
        _section("Clips", shown) if shown else "",
    ]
    return _page(f"{name}: data report", "\n".join(sections))


def _splits(facts: Sequence[SplitFacts]) -> str:
    rows = [
        [
            _text(f.name),
            f"{f.clips:,}",
            f"{f.frames.sum():,.0f}",
            f"{f.seconds.sum() / 3600:.2f}",
            f"{_median(f.seconds):.1f}",
            f"{f.videos:,}",
            f"{len(f.signers):,}" if f.signers else "–",
            f"{np.mean(f.glosses > 0):.0%}" if f.clips else "–",
            f"{np.sum(f.words == 0):,}",
        ]
        for f in facts
    ]
    return _table(
        [
            "split",
            "clips",
            "frames",
            "hours",
            "median s",
            "source videos",
            "signers",
            "with glosses",
            "without text",
        ],
        rows,
    )


def _lengths(facts: SplitFacts) -> str:
    values = (
        ("seconds", facts.seconds),
        ("frames stored", facts.frames),
        ("frames sampled", facts.sampled),
        ("words", facts.words),
    )
    values += (("glosses", facts.glosses),) if facts.glosses.any() else ()
    return f"<h3>{_text(facts.name)}</h3><div class=charts>{''.join(_histogram(name, value) for name, value in values)}</div>"


def _histogram(name: str, values: Float[np.ndarray, " n"]) -> str:
    """Bars of equal width from 0 to the 99th percentile; what is longer stands in the last."""
    if not len(values):
        return ""
    top = max(float(np.percentile(values, 99)), 1e-9)
    width = max(1.0, np.ceil(top / _BINS)) if (values == values.round()).all() else top / _BINS
    counts = np.bincount(np.minimum((values / width).astype(int), int(top / width)))
    bars = "".join(
        f'<rect x="{i * 100 / len(counts):.2f}" y="{50 * (1 - count / counts.max()):.1f}" width="{92 / len(counts):.2f}" '
        f'height="{50 * count / counts.max():.1f}"><title>{i * width:g} to {(i + 1) * width:g}: {count:,}</title></rect>'
        for i, count in enumerate(counts)
    )
    low, middle, high = np.percentile(values, [5, 50, 95])
    caption = (
        f"{name}: median {middle:.4g}, 5 % {low:.4g}, 95 % {high:.4g}, most {values.max():.4g}"
    )
    picture = f'<svg viewBox="0 0 100 50" preserveAspectRatio="none" role=img aria-label="{name}">{bars}</svg>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _vocabulary(facts: Sequence[SplitFacts]) -> str:
    rows, header = (
        [],
        ["split", "", "running", "distinct", "once", "unseen", "of the running", "such as"],
    )
    for f in facts:
        for kind, v in (("text", f.text), ("gloss", f.gloss)):
            if v.words:
                share = f"{v.unseen_running / v.words:.1%}"
                numbers = [f"{n:,}" for n in (v.words, v.distinct, v.once, v.unseen)]
                rows.append(
                    [
                        _text(f.name),
                        kind,
                        *numbers,
                        share,
                        f"<span class=words>{_text(' '.join(v.examples))}</span>",
                    ]
                )
    return _table(header, rows)


def _ctc(facts: Sequence[SplitFacts], config: Config) -> str:
    rows = [
        [
            _text(f.name),
            f.ctc_target,
            f"{f.ctc_impossible:,}",
            f"{f.ctc_impossible / max(f.clips, 1):.1%}",
            _text(", ".join(f.ctc_examples)),
        ]
        for f in facts
    ]
    queries = config.model.temporal.num_queries
    steps = (
        "the sampled frames of each clip"
        if config.model.ctc.source == "frames"
        else f"the {queries} queries"
    )
    return f"<p>Steps: {steps}.</p>" + _table(
        ["split", "labels", "cannot align", "share", "such as"], rows
    )


def _signers(facts: Sequence[SplitFacts]) -> str:
    names = sorted(
        {name for f in facts for name in f.signers},
        key=lambda name: -sum(f.signers[name] for f in facts),
    )
    if not names:
        return "<p>None are named.</p>"
    rows = [
        [_text(name), *(f"{f.signers[name]:,}" if f.signers[name] else "–" for f in facts)]
        for name in names[:_LISTED]
    ]
    return _table(["signer", *(f.name for f in facts)], rows) + _more(len(names), "signers")


def _notes(report: Mapping[str, Any]) -> str:
    if not report:
        return "<p>There is no build_report.json beside the records.</p>"
    notes = [f"<li>{_text(note)}</li>" for note in report.get("warnings", [])]
    for kind, name in (("shared_videos", "source videos"), ("shared_signers", "signers")):
        notes += [
            f"<li>{pair['count']:,} {name} are in {_text(' and '.join(pair['splits']))}, as the protocol of the data set allows</li>"
            for pair in report.get(kind, [])
            if pair["allowed"]
        ]
    return (
        f"<ul>{''.join(notes)}</ul>"
        if notes
        else "<p>No duplicates, no leaks, no empty splits.</p>"
    )


def _failed(report: Mapping[str, Any]) -> str:
    failed = report.get("failed", [])
    if not failed:
        return "<p>Nothing.</p>"
    rows = [
        [
            _text(p["id"]),
            _text(p["reason"]),
            _text(f"{Path(p['file']).name}, line {p['line']}" if p["line"] else p["file"]),
        ]
        for p in failed
    ]
    return _table(["clip", "reason", "annotation"], rows[:_LISTED], "text") + _more(
        len(failed), "clips"
    )


def _more(count: int, what: str) -> str:
    return f"<p class=soft>and {count - _LISTED:,} more {what}</p>" if count > _LISTED else ""


def _clips(split: Split, config: Config, count: int) -> str:
    """Evenly spread over the split, each with its frames as the model sees them."""
    chosen = (
        np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))
        if len(split)
        else []
    )
    return f"<h3>{_text(split.name)}</h3>" + "".join(
        _clip(split, int(number), config) for number in chosen
    )


def _clip(split: Split, number: int, config: Config) -> str:
    try:
        record = split[number]
        picture = (
            f'<img class=sheet alt="frames of the clip" src="{_data_uri(_sheet(record, config))}">'
        )
    except (DatasetError, FrameDecodeError, ValueError) as error:
        return (
            f"<article><p class=bad>record {number} cannot be shown: {_text(error)}</p></article>"
        )
    entries = ("id", "text", "gloss", "signer", "video_id")
    said = "".join(f"<dt>{key}</dt><dd>{_text(record[key])}</dd>" for key in entries if record[key])
    length = f"<dt>length</dt><dd>{len(record['video'])} frames, {len(record['video']) / max(record['fps'], 1e-9):.1f} s</dd>"
    return f"<article><dl>{said}{length}</dl>{picture}</article>"


def _sheet(record: Record, config: Config) -> Image.Image:
    data = config.data
    frames = sample_frames(len(record["video"]), record["fps"], data, limit=data.num_frames)
    frames = frames[
        np.linspace(0, len(frames) - 1, min(len(frames), _SHEET_FRAMES)).round().astype(int)
    ]
    pictures = decode_clip([record["video"][i] for i in frames], _SHEET_SIZE, data.resize_mode)
    return Image.fromarray(np.concatenate(list(pictures), axis=1))


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _median(values: Float[np.ndarray, " n"]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{title}</h2>{f'<p class=soft>{note}</p>' if note else ''}{body}</section>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """Cells are HTML, the header is text."""
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    """Text that cannot become markup; characters that HTML forbids or no file can hold show as the replacement character."""
    shown = (
        c if c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd"
        for c in str(value)
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


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #fdfdfc; --soft: #6b7280; --line: #e3e5e8; --bar: #2563a8; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --paper: #15171a; --soft: #9aa1ab; --line: #2b2f35; --bar: #6ea8e2; --bad: #ff8a80; }
}
body { margin: 3rem auto; max-width: 64rem; padding: 0 1.25rem; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; font-weight: 650; margin: 0; }
h2 { font-size: 1.15rem; margin: 3rem 0 .6rem; } h3 { font-size: .95rem; margin: 1rem 0 .4rem; }
.soft, figcaption, dt { color: var(--soft); } .bad { color: var(--bad); } section { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; color: var(--soft); } th:first-child, td:first-child, .text td, .text th { text-align: left; overflow-wrap: anywhere; }
.words { display: inline-block; max-width: 22rem; text-align: left; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem 1.4rem; }
figure { margin: 0; } figcaption { font-size: .8rem; line-height: 1.35; margin-top: .3rem; }
svg { width: 100%; height: 4.5rem; border-bottom: 1px solid var(--line); } rect { fill: var(--bar); }
article { border-top: 1px solid var(--line); padding: .9rem 0; } .sheet { display: block; max-width: 100%; margin-top: .6rem; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; margin: 0; } dd { margin: 0; overflow-wrap: anywhere; }
"""
