"""Compare trained models on the same clips: are their scores different, and where?

A, B, ... are workdirs, exports, or results files of `signvit eval`. Printed are the scores of each
decoder that all of them have, with 95 % confidence intervals, and the probability that a difference
to the first is chance (paired bootstrap, BLEU and chrF by sacreBLEU); what differs in their
configs; and the clips on which they differ most. Results on different clips are refused.

--output=FILE.html is a page with all of it and the curves of the runs; .png has the curves alone,
.json the numbers.

Exit codes: 0 done, 1 the file could not be written, 2 wrong usage, or results that cannot be
compared.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import integer, parser
from signvit_jax.runtime.exit_codes import DONE, UsageError
from signvit_jax.runtime.standard_streams import OutputError, clean
from signvit_jax.runtime.terminal import print_table, progress_bar

_SUFFIXES = (".html", ".png", ".json")
_SHOWN_CLIPS = 5  # in the terminal


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    output = arguments.output
    if len(arguments.systems) < 2:
        raise UsageError("there is one system; give at least two to compare")
    if output is not None and output.suffix not in _SUFFIXES:
        raise UsageError(
            f"--output={output} ends in {output.suffix!r}; allowed: {', '.join(_SUFFIXES)}"
        )
    from signvit_jax.comparing import report
    from signvit_jax.comparing.curves import curves_png
    from signvit_jax.comparing.sides import common_decoders, read_sides
    from signvit_jax.comparing.significance import compare
    from signvit_jax.files.atomic import write_atomically

    sides = read_sides(arguments.systems, arguments.split)
    decoders = common_decoders(sides, arguments.decode)
    curves = None
    if output is not None and output.suffix == ".png" and (curves := curves_png(sides)) is None:
        raise UsageError(f"--output={output}: no run has a metrics.csv, so there are no curves")
    console = Console(stderr=True)
    with progress_bar(console, disable=not console.is_terminal) as bar:
        task = bar.add_task("resampling", total=4 * len(decoders))
        comparisons = [
            compare(sides, decoder, arguments.samples, lambda: bar.advance(task))
            for decoder in decoders
        ]
    for comparison in comparisons:
        print_table(report.score_table(sides, comparison))
    print(report.explanation_line(arguments.samples))
    if differences := report.config_differences(sides):
        config_table = Table(title="configs", title_justify="left")
        for name in ("key", *(side.name for side in sides)):
            config_table.add_column(clean(name))
        for key, values in differences:
            config_table.add_row(key, *("" if v is None else clean(str(v)) for v in values))
        print_table(config_table)
    lines = report.clip_lines(sides, comparisons[0], _SHOWN_CLIPS)
    if lines:
        print(f"\nclips that differ most, decoder {comparisons[0].decoder}:", *lines, sep="\n")
    if output is None:
        return DONE
    content: str | bytes = report.as_json(sides, comparisons)
    if output.suffix == ".html":
        content = report.as_html(sides, comparisons)
    elif curves is not None:
        content = curves
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, content)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    print(clean(f"written to {output}"), file=sys.stderr)
    return DONE


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(__doc__, "signvit compare runs/small runs/large --output=compare.html")
    flags.add_argument(
        "systems",
        nargs="+",
        type=local_path,
        metavar="SYSTEM",
        help="workdirs, exports or results files, at least two; the first is the baseline",
    )
    flags.add_argument(
        "--split", help="split of workdirs and exports (test, or the only one evaluated)"
    )
    flags.add_argument(
        "--decode",
        type=lambda text: text.split(","),
        metavar="DECODER,...",
        help="decoders to compare (all that every system has)",
    )
    flags.add_argument(
        "--samples", type=integer(100), default=1000, help="resamples of the clips, >= 100 (1000)"
    )
    flags.add_argument(
        "--output", type=local_path, metavar="FILE", help="a page (.html), .png or .json"
    )
    return flags.parse_args(argv)
