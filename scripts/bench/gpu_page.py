"""Merge results of gpu.py into docs/benchmarks/gpu.json, and write docs/benchmarks/gpu.md.

Each measurement is shown beside the target and the figures that `signvit inspect --device` planned
for the same program (docs/benchmarks/plans.json). Used by `gpu.py --merge`.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"

# Part of a card's name -> the kind that plans are made for.
CARDS = {"H100 80GB HBM3": "h100", "A100-SXM4-40GB": "a100_40", "A100-SXM4-80GB": "a100_80"}
MAIN_ROW = (
    "training.remat=names model.encoder.attention_dropout=0.0 model.encoder.dropout_rng_impl=hash"
)
# Row -> (preset, overrides) of its plan in plans.json.
PLANNED = {
    "reference": ("reference", MAIN_ROW),
    "dense_vit": ("dense_vit", ""),
    "dense_vit_names": ("dense_vit", "training.remat=names training.gradient_accumulation=4"),
    "dense_vit_100m": ("dense_vit_100m", ""),
}
# Row -> kind of card -> the target: the most milliseconds that a step or a clip should take.
TARGETS = {
    "reference": {"h100": 215, "a100_40": 560, "a100_80": 560},
    "encode": {"h100": 8, "a100_40": 18, "a100_80": 18},
    "translate": dict.fromkeys(("h100", "a100_40", "a100_80"), 60),
}
_NOT_FIGURES = ("row", "size", "card", "load", "wall_seconds", "about", "attention_is", "failed")


class NoResultsError(ValueError):
    """A file of results without any that belongs on the page."""


def merge(results: Path, folder: Path = DOCS) -> str:
    """Merge a file of results into gpu.json and gpu.md of `folder`; return what was done.

    The last result of a row on a card counts. Checks at tiny size, results without a GPU and lines
    that were cut off are left out, and counted in what is returned.

    Raises NoResultsError if nothing is left, and OSError for files that cannot be read or written.
    """
    texts = [line for line in results.read_text().splitlines() if line.strip()]
    lines = []
    for text in texts:
        with contextlib.suppress(json.JSONDecodeError):  # a line that was cut off while written
            lines.append(json.loads(text))
    good = [line for line in lines if line["size"] == "full" and not _has_no_gpu(line)]
    left_out = len(texts) - len(good)
    if not good:
        raise NoResultsError(
            f"no result of a GPU in {results} ({left_out} of a CPU or at tiny size); measure with "
            "bash scripts/bench/gpu.sh on a machine with a GPU"
        )
    store = folder / "gpu.json"
    known = json.loads(store.read_text()) if store.is_file() else []
    merged = {(line["card"], line["row"]): line for line in [*known, *good]}
    ordered = [merged[key] for key in sorted(merged)]
    plans = json.loads((folder / "plans.json").read_text())
    store.write_text(json.dumps(ordered, indent=1) + "\n")
    (folder / "gpu.md").write_text(page(ordered, plans))
    _list_page(folder / "index.md")
    return f"{len(good)} results merged into {folder / 'gpu.md'}, {left_out} left out"


def page(lines: Sequence[Mapping], plans: Mapping[str, Mapping]) -> str:
    """Return the page of all results in Markdown. `plans`: the content of plans.json."""
    text = [
        "# On a GPU",
        "",
        "Measured by `bash scripts/bench/gpu.sh`; written by its flag `--merge`. Planned: the",
        "figures of `signvit inspect --device` for the same program ([plans](plans.md)), with",
        "perfect kernels, and with products at 70% and memory at 85% of the peaks. Target: the",
        "most that we want. GiB: the peak that the device reports, and the plan's.",
    ]
    for card in dict.fromkeys(line["card"] for line in lines):
        of_card = [line for line in lines if line["card"] == card]
        kind = next((kind for name, kind in CARDS.items() if name in card), None)
        text += ["", f"## {card}", ""]
        timed = [line for line in of_card if "seconds" in line and "failed" not in line]
        if timed:
            text += [
                "| row | ms | planned, perfect | planned, careful | target | MFU | GiB | planned |",
                "|---|---|---|---|---|---|---|---|",
                *(_timed(line, kind, plans) for line in timed),
                "",
            ]
        text += [_other(line) for line in of_card if line not in timed or "peak_bytes" not in line]
        about = sorted({line["about"] for line in of_card if "about" in line})
        text += [f"- {words}" for words in about]
    return "\n".join(text).rstrip() + "\n"


def _timed(line: Mapping, kind: str | None, plans: Mapping[str, Mapping]) -> str:
    name = line["row"]
    preset, overrides = PLANNED.get(name, ("", ""))
    plan = plans.get(f"{preset} 1x{kind} {overrides}".strip())
    target = TARGETS.get(name, {}).get(kind or "")
    cells = [
        f"`{name}`",
        f"{1e3 * line['seconds']:,.1f}",
        f"{1e3 * plan['perfect']:,.0f}" if plan else "",
        f"{1e3 * (plan['careful'] + plan['communication']):,.0f}" if plan else "",
        "" if target is None else f"{target}" + " (missed)" * (1e3 * line["seconds"] > target),
        f"{line['mfu']:.1%}" if line.get("mfu") else "",
        f"{line['peak_bytes'] / 2**30:.1f}" if "peak_bytes" in line else "",
        f"{plan['total'] / 2**30:.1f}" if plan else "",
    ]
    return f"| {' | '.join(cells)} |"


def _other(line: Mapping) -> str:
    """Return, as a line of a list, a result other than the time of a step, or a failure."""
    figures = [f"{key} {value}" for key, value in line.items() if key not in _NOT_FIGURES]
    if "attention_is" in line:
        figures.insert(0, f"attention by {line['attention_is']}")
    failed = [f"**failed: {line['failed']}**"] if "failed" in line else []
    return f"- `{line['row']}`: {', '.join([*failed, *figures])}"


def _has_no_gpu(line: Mapping) -> bool:
    return line["card"].startswith("no GPU")


def _list_page(index: Path) -> None:
    """Add the page to the table of contents of the benchmarks, unless it is listed there."""
    names = index.read_text().splitlines()
    if "gpu" not in names:
        names.insert(names.index("plans"), "gpu")
        index.write_text("\n".join(names) + "\n")
