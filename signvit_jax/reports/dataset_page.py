"""A built data set as one HTML page: what `data_report` writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from signvit_jax.config.schema import Config
from signvit_jax.data.augment import NO_AUGMENTATION, augment_keypoints, decode_clip
from signvit_jax.data.dataset import DatasetError, SignDataset, Split
from signvit_jax.data.frame_sampling import sample_frames
from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.data.records import Record
from signvit_jax.data.schema import BuildReport
from signvit_jax.media.contact_sheet import COLUMNS, HEIGHT, contact_sheet, evenly_spaced
from signvit_jax.media.frames import FrameDecodeError, jpeg_shape
from signvit_jax.reports.dataset_stats import SplitFacts
from signvit_jax.reports.html_kit import header, image, page, section, table, text

_SHEET_FRAMES = 2 * COLUMNS
_BINS = 24
_MAX_ROWS = 20
# Colors of keypoints by the signer's side.
_SIDE_COLORS = {"left": "#35b8ff", "right": "#ff9d2e"}


def render(
    name: str,
    dataset: SignDataset,
    facts: Sequence[SplitFacts],
    config: Config,
    report: BuildReport,
    clips: int,
) -> str:
    """Return the page's HTML.

    `report` is the builder's build_report.json, or {}; `clips` is the number shown per split.
    """
    sampling = f"{config.data.sampling}, at most {config.data.num_frames} frames"
    if config.data.sampling != "even":
        sampling += f" at {config.data.frame_rate:g} per second"
    sections = [
        header(text(name), f"{text(dataset.folder)}; frame sampling: {text(sampling)}"),
        section("Splits", _splits(facts)),
        section("Lengths", "".join(_lengths(split) for split in facts)),
        section(
            "Words",
            _vocabulary(facts),
            "Case is ignored; in scripts without spaces each character counts as a word. "
            "Unseen: not in the training split, with their share of all words of the split.",
        ),
        section(
            "CTC",
            _ctc(facts, config),
            "A clip cannot align if its labels, and a blank between equal ones, "
            "need more steps than there are.",
        ),
        section("Signers", _signers(facts)),
        *_keypoints(facts, dataset.keypoint_layout),
        section("Notes of the builder", _notes(report)),
        section(
            "Not built",
            _failed(report),
            "Clips that the builder could not read, with the reason; they are not in the records.",
        ),
    ]
    if clips:
        shown = "".join(_clips(dataset.split(split.name), config, clips) for split in facts)
        sections.append(section("Clips", shown))
    return page(f"{name}: data report", sections, _STYLE)


def _splits(facts: Sequence[SplitFacts]) -> str:
    columns = [
        "split",
        "clips",
        "frames",
        "hours",
        "median s",
        "source videos",
        "signers",
        "with glosses",
        "without text",
    ]
    rows = [
        [
            text(split.name),
            f"{split.clips:,}",
            f"{split.frames.sum():,.0f}",
            f"{split.seconds.sum() / 3600:.2f}",
            f"{_median(split.seconds):.1f}",
            f"{split.videos:,}",
            f"{len(split.signers):,}" if split.signers else "–",
            f"{np.mean(split.glosses > 0):.0%}" if split.clips else "–",
            f"{np.sum(split.words == 0):,}",
        ]
        for split in facts
    ]
    return table(columns, rows)


def _lengths(facts: SplitFacts) -> str:
    charts = [
        _histogram("seconds", facts.seconds),
        _histogram("frames stored", facts.frames),
        _histogram("frames sampled", facts.sampled),
        _histogram("words", facts.words),
    ]
    if facts.glosses.any():
        charts.append(_histogram("glosses", facts.glosses))
    return f"<h3>{text(facts.name)}</h3><div class=charts>{''.join(charts)}</div>"


def _histogram(name: str, values: Float[np.ndarray, " n"]) -> str:
    """Bars of equal width from 0 to the maximum.

    The last one holds all values above the 99th percentile.
    """
    if not len(values):
        return ""
    top = max(float(np.percentile(values, 99)), 1e-9)
    width = top / _BINS
    if (values == values.round()).all():
        width = max(1.0, np.ceil(width))
    counts = np.bincount(np.minimum((values / width).astype(int), int(top / width)))
    bars = ""
    for i, count in enumerate(counts):
        height = 50 * count / counts.max()
        bars += (
            f'<rect x="{i * 100 / len(counts):.2f}" y="{50 - height:.1f}" '
            f'width="{92 / len(counts):.2f}" height="{height:.1f}">'
            f"<title>{i * width:g} to {(i + 1) * width:g}: {count:,}</title></rect>"
        )
    low, middle, high = np.percentile(values, [5, 50, 95])
    return (
        f'<figure><svg viewBox="0 0 100 50" preserveAspectRatio="none" role=img '
        f'aria-label="{name}">{bars}</svg>'
        f"<div class=axis><span>0</span><span>{values.max():.3g}</span></div>"
        f"<figcaption><strong>{name}</strong>: median {middle:.3g}, "
        f"90&nbsp;% from {low:.3g} to {high:.3g}</figcaption></figure>"
    )


def _vocabulary(facts: Sequence[SplitFacts]) -> str:
    columns = "split", "", "total", "distinct", "used once", "unseen", "share of total", "examples"
    rows = []
    for split in facts:
        for kind, words in (("text", split.text), ("gloss", split.gloss)):
            if words.words:
                counts = (words.words, words.distinct, words.once, words.unseen)
                rows.append(
                    [
                        text(split.name),
                        kind,
                        *(f"{count:,}" for count in counts),
                        f"{words.unseen_running / words.words:.1%}",
                        _examples(" ".join(words.examples)),
                    ]
                )
    return table(columns, rows)


def _ctc(facts: Sequence[SplitFacts], config: Config) -> str:
    if config.model.ctc.source == "frames":
        steps = "the sampled frames of each clip"
    else:
        steps = f"the {config.model.temporal.num_queries} queries"
    rows = [
        [
            text(split.name),
            split.ctc_target,
            f"{split.ctc_impossible:,}",
            f"{split.ctc_impossible / max(split.clips, 1):.1%}",
            _examples(", ".join(split.ctc_examples)),
        ]
        for split in facts
    ]
    columns = ["split", "labels", "cannot align", "share", "examples"]
    return f"<p>Steps: {steps}.</p>" + table(columns, rows)


def _examples(words: str) -> str:
    return f"<span class=words>{text(words)}</span>"


def _signers(facts: Sequence[SplitFacts]) -> str:
    names = {name for split in facts for name in split.signers}
    if not names:
        return "<p>No signer is named.</p>"
    ranked = sorted(names, key=lambda name: (-sum(split.signers[name] for split in facts), name))
    rows = []
    for name in ranked[:_MAX_ROWS]:
        counts = [split.signers[name] for split in facts]
        rows.append([text(name), *(f"{count:,}" if count else "–" for count in counts)])
    return table(["signer", *(split.name for split in facts)], rows) + _more(len(names), "signers")


def _keypoints(facts: Sequence[SplitFacts], layout: KeypointLayout | None) -> list[str]:
    """The section on keypoints; none for a data set without them."""
    if layout is None:
        return []
    rows = [
        [
            text(split.name),
            f"{_share_of_frames(split):.1%}",
            f"{np.sum(split.keypoints < 0.5):,}",
            f"{np.sum(split.keypoints == 0):,}",
        ]
        for split in facts
    ]
    columns = ["split", "frames with keypoints", "clips with less than half", "clips with none"]
    about = (
        f"{text(layout.name)}, {len(layout.points)} points. In the clips below: the signer's "
        "<span class=left>left</span>, <span class=right>right</span>, and other points; a ring is "
        "a confidence below one half."
    )
    return [section("Keypoints", f"<p>{about}</p>" + table(columns, rows))]


def _share_of_frames(split: SplitFacts) -> float:
    """The share of a split's frames in which some keypoint is known."""
    return float(np.average(split.keypoints, weights=split.frames)) if split.clips else 0.0


def _notes(report: BuildReport) -> str:
    if not report:
        return "<p>There is no build_report.json beside the records.</p>"
    notes = [text(note) for note in report.get("warnings", [])]
    for kind, name in (("shared_videos", "source videos"), ("shared_signers", "signers")):
        notes += [
            f"{pair['count']:,} {name} are in {text(' and '.join(pair['splits']))}, "
            "as the protocol of the data set allows"
            for pair in report.get(kind, [])
            if pair["allowed"]
        ]
    if not notes:
        return "<p>No duplicates, no leaks, no empty splits.</p>"
    return f"<ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>"


def _failed(report: BuildReport) -> str:
    failed = report.get("failed", [])
    if not failed:
        return "<p>None.</p>"
    rows = []
    for problem in failed[:_MAX_ROWS]:
        place = problem["file"]
        if problem["line"]:
            place = f"{Path(place).name}, line {problem['line']}"
        rows.append([text(problem["id"]), text(problem["reason"]), text(place)])
    return table(["clip", "reason", "annotation"], rows, "text") + _more(len(failed), "clips")


def _more(count: int, what: str) -> str:
    hidden = count - _MAX_ROWS
    return f"<p class=soft>and {hidden:,} more {what}</p>" if hidden > 0 else ""


def _clips(split: Split, config: Config, count: int) -> str:
    """Clips evenly spaced over the split, each with its frames as the model sees them."""
    chosen = np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)
    articles = (_clip(split, number, config) for number in np.unique(chosen).tolist())
    return f"<h3>{text(split.name)}</h3>" + "".join(articles)


def _clip(split: Split, number: int, config: Config) -> str:
    try:
        record = split[number]
        sheet = image(
            _contact_sheet(record, config, split.keypoint_layout),
            attributes='class=sheet alt="frames of the clip"',
        )
    except (DatasetError, FrameDecodeError, ValueError) as error:
        return f"<article><p class=bad>record {number} cannot be shown: {text(error)}</p></article>"
    frames = len(record["video"])
    entries = {key: record[key] for key in ("id", "text", "gloss", "signer", "video_id")}
    entries["length"] = f"{frames} frames, {frames / max(record['fps'], 1e-9):.1f} s"
    terms = "".join(
        f"<dt>{key}</dt><dd>{text(value)}</dd>" for key, value in entries.items() if value
    )
    return f"<article><dl>{terms}</dl>{sheet}</article>"


def _contact_sheet(record: Record, config: Config, layout: KeypointLayout | None) -> Image.Image:
    data = config.data
    frames = sample_frames(len(record["video"]), record["fps"], data, limit=data.num_frames)
    chosen = frames[evenly_spaced(len(frames), _SHEET_FRAMES)]
    jpegs = [record["video"][i] for i in chosen]
    images = decode_clip(jpegs, HEIGHT, data.resize_mode)
    if layout is not None and "keypoints" in record:
        points = augment_keypoints(
            record["keypoints"][chosen],
            jpeg_shape(jpegs[0]),
            HEIGHT,
            data.resize_mode,
            NO_AUGMENTATION,
            layout.mirrored,
        )
        images = np.stack([_with_points(*pair, layout) for pair in zip(images, points)])
    return contact_sheet(images, _SHEET_FRAMES)


def _with_points(
    image: UInt8[np.ndarray, "s s 3"], points: Float[np.ndarray, "k 3"], layout: KeypointLayout
) -> UInt8[np.ndarray, "s s 3"]:
    """Draw the known points, filled if the confidence is at least one half."""
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    for name, (x, y, confidence) in zip(layout.points, points.tolist()):
        if confidence > 0:
            color = _SIDE_COLORS.get(layout.side(name), "white")
            place = (x * len(image), y * len(image))
            pen.circle(place, 2, fill=color if confidence >= 0.5 else None, outline=color)
    return np.asarray(drawn)


def _median(values: Float[np.ndarray, " n"]) -> float:
    return float(np.median(values)) if len(values) else 0.0


_STYLE = """
.words {
  display: inline-block; width: max-content; max-width: 22rem; text-align: left;
  white-space: normal; overflow-wrap: anywhere;
}
.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1rem 1.4rem;
}
.charts figure { margin: 0; }
.axis {
  display: flex; justify-content: space-between; font-size: .75rem; color: var(--soft);
  font-variant-numeric: tabular-nums;
}
.charts figcaption strong { font-weight: 500; color: var(--ink); }
.charts figcaption { font-size: .8rem; line-height: 1.35; margin-top: .3rem; }
svg { width: 100%; height: 4.5rem; border-bottom: 1px solid var(--line); }
rect { fill: var(--accent); }
""" + "".join(
    f".{side} {{ color: {color}; font-weight: 600; }}\n" for side, color in _SIDE_COLORS.items()
)
