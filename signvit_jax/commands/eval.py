"""Evaluate a trained model on a split: every clip once, with each of the requested decoders.

Prints a table (BLEU-1..4 and chrF by sacreBLEU with its signature, ROUGE-L, WER or CER, exact
match, all against the raw references in Unicode's NFC; glosses against the glosses of the clips
that have them) and writes every prediction to a JSON file and an HTML report, which shows clips
with the texts of the first decoder. Only parameters and JSON are read from the workdir; no config
file is run.
"""

import argparse
import dataclasses
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from signvit_jax.cli.inference_flags import (
    DECODER_NAMES,
    add_inference_flags,
    add_model_flags,
    inference_overrides,
)
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.config.schema import TOKENIZATIONS
from signvit_jax.files.local_paths import is_hub_address, local_path, local_path_string
from signvit_jax.runtime.command_line import parser
from signvit_jax.runtime.exit_codes import DONE, UsageError
from signvit_jax.runtime.standard_streams import clean
from signvit_jax.runtime.terminal import print_table, progress_bar

if TYPE_CHECKING:
    from signvit_jax.data.dataset import Split
    from signvit_jax.evaluation.results import Results
    from signvit_jax.evaluation.score_groups import Columns

DEFAULT_DECODERS = ("greedy", "beam", "ctc")
SHOWN_CLIPS = 8


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if is_hub_address(arguments.workdir):
        _check_outputs(arguments)
    set_up_jax()

    from signvit_jax.checkpoints.data_folder import open_data_of_run, with_data_of_run
    from signvit_jax.evaluation import results
    from signvit_jax.evaluation.diagnostics import make_attention_maps, no_attention_maps
    from signvit_jax.evaluation.evaluate import clip_images, evaluate
    from signvit_jax.inference.loading import load_model
    from signvit_jax.reports.evaluation_page import write_report
    from signvit_jax.runtime.signals import StopRequest
    from signvit_jax.training.confidence_calibration import calibrated

    model = load_model(
        arguments.workdir,
        arguments.checkpoint,
        arguments.backend,
        calibrated=not arguments.calibrate,
    )
    overrides = inference_overrides(arguments)
    predictor = model.predictor(arguments.decode, **overrides)
    config = with_data_of_run(model.config, model.workdir, arguments.data_dir, arguments.name)
    config = dataclasses.replace(config, inference=predictor.config)
    dataset = open_data_of_run(config, named=arguments.name is not None)
    split = dataset.split(arguments.split or config.data.test_split)
    ensemble = f"_ensemble_of_{1 + len(model.others)}" if model.others else ""
    columns = _columns(split, arguments.by, arguments.table)
    output = arguments.output or model.workdir.evaluations / f"{split.name}{ensemble}.json"
    report = output.with_suffix(".html")
    results.check_writable(output, report)
    with StopRequest() as stop, progress_bar(Console(stderr=True), transient=False) as bar:
        if arguments.calibrate:
            task = bar.add_task(
                escape(f"fitting confidence on {config.data.val_split}"), total=None
            )
            model = calibrated(
                model,
                config,
                arguments.decode,
                should_stop=lambda: stop.requested,
                on_batch=lambda clips: bar.advance(task, clips),
            )
            if model is None:
                return stop.exit_code
            predictor = model.predictor(arguments.decode, **overrides)
        task = bar.add_task(escape(f"decoding {split.name}"), total=len(split))
        evaluated = evaluate(
            split,
            predictor,
            model.weights,
            config,
            model.tokenizer,
            checkpoint_step=model.step,
            tokenize=arguments.tokenize,
            phoenix=arguments.phoenix_gloss_wer or config.data.name.startswith("phoenix"),
            lowercase=arguments.lowercase or model.config.tokenizer.lowercase,
            columns=columns,
            should_stop=lambda: stop.requested,
            on_batch=lambda clips: bar.advance(task, clips),
        )
    if evaluated is None:
        return stop.exit_code
    # Scores are printed before anything is written: the disk may be full by now.
    title = (
        f"{config.data.name} {split.name}: {len(split):,} clips, checkpoint of step {model.step:,}"
    )
    _print_scores(evaluated, title, arguments.by or ())
    results.write(evaluated, output)
    if model.encode:
        attention_maps = no_attention_maps  # an export's programs do not return attention weights
    else:
        attention_maps = make_attention_maps(
            model.definition.bind,
            model.params,
            model.tokenizer,
            model.ctc_tokenizer,
            config.frame_buckets,
            config.model.decoder.max_len,
        )
    shown = clip_images(evaluated, split, config, model.tokenizer, attention_maps, SHOWN_CLIPS)
    try:
        write_report(evaluated, report, shown, SHOWN_CLIPS)
    except OSError as error:
        raise results.ResultsLost(
            f"{report} could not be written: {error.strerror}; the predictions are in {output}"
        ) from error
    print(clean(f"predictions: {output}\nreport:      {report}", keep="\n"))
    return DONE


def _print_scores(evaluated: "Results", title: str, columns: Sequence[str]) -> None:
    """Print the tables of scores and confidences, and one of errors for each of the columns."""
    from signvit_jax.evaluation import confidence_reliability, score_groups
    from signvit_jax.evaluation.score_table import format_table
    from signvit_jax.evaluation.scored_clips import score_clips
    from signvit_jax.text.tokenizer import unknown_note

    print_table(format_table(evaluated.decoders, escape(title)))
    print_table(confidence_reliability.format_table(evaluated.confidence))
    clips = score_clips(evaluated)
    for column in columns:
        groups = score_groups.errors_by(clips, column, list(evaluated.decoders))
        print_table(score_groups.format_table(column, groups))
    for decoder, rate in evaluated.phoenix_gloss_wer.items():
        print(
            f"{decoder}: gloss error rate {rate:.1%} "
            "(as reported on PHOENIX-2014T: cleaned glosses, aligned at costs 4/3/3)"
        )
    if note := unknown_note(evaluated.unknown):
        print(clean(f"references: {note}"))


def _columns(split: "Split", by: Sequence[str] | None, table: Path | None) -> "Columns":
    """Return the values of the columns of --by, or of `signer` if several signers are named.

    Raises UsageError for a column that neither the data set nor the table has.
    """
    from signvit_jax.evaluation.score_groups import INDEX_COLUMNS, index_column

    if by is None:
        signers = index_column(split.index, "signer")
        return {"signer": signers} if len(set(signers.values())) > 1 else {}
    others = [column for column in by if column not in INDEX_COLUMNS]
    if others and table is None:
        raise UsageError(
            f"--by={others[0]}: a data set has the columns {' and '.join(INDEX_COLUMNS)}; for "
            "others give the table that it was built from, --table=clips.csv"
        )
    if table is not None and not others:
        raise UsageError("--table gives columns to --by; name one of them, as in --by=camera")
    columns = {column: index_column(split.index, column) for column in by if column not in others}
    if table is not None:
        columns |= _columns_of_table(split, others, table)
    return {column: columns[column] for column in by}


def _columns_of_table(
    split: "Split", names: Sequence[str], path: Path
) -> dict[str, dict[str, str]]:
    """Return columns of a table with the column uid. Raises UsageError."""
    from signvit_jax.media.video import EXTENSIONS
    from tfds_builders.annotation_files.tables import read_table

    table = read_table(path, ("uid",), names)
    columns: dict[str, dict[str, str]] = {name: {} for name in names}
    for row in table.rows:
        uid = unicodedata.normalize("NFC", row.values["uid"])
        stem, extension = os.path.splitext(uid)
        clip = stem if extension.lower() in EXTENSIONS else uid
        for name in names:
            columns[name][clip] = row.values.get(name, "")
    known = {entry.id for entry in split.index}
    for name, values in columns.items():
        if not any(values.values()):
            raise UsageError(f"{path}: no column {name!r}, or one without a value (--by={name})")
        if not known & values.keys():
            raise UsageError(
                f"{path}: none of its {len(values):,} uids is a clip of {split.name!r}; give the "
                "table that the data set was built from"
            )
    return columns


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raise UsageError where results would be written into the cache of a hub's files."""
    copy = f"copy the model first: signvit pull {arguments.workdir} DIR"
    if arguments.calibrate:
        raise UsageError(
            f"--calibrate writes into the model's folder, and {arguments.workdir} is on a hub; "
            f"{copy}"
        )
    if arguments.output is None:
        raise UsageError(
            "without --output eval writes into the model's folder, and "
            f"{arguments.workdir} is on a hub; give --output=FILE.json, or {copy}"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(
        __doc__,
        "signvit eval --workdir=runs/quickstart --split=test "
        "--decode=greedy,beam,ctc --output=results.json",
    )
    add_model_flags(flags)
    flags.add_argument("--split", help="default: the run's config.data.test_split")
    flags.add_argument(
        "--decode",
        type=_decoders,
        default=list(DEFAULT_DECODERS),
        help=f"decoders among {','.join(DECODER_NAMES)}, separated by commas "
        f"(default: {','.join(DEFAULT_DECODERS)})",
    )
    flags.add_argument(
        "--tokenize",
        choices=TOKENIZATIONS,
        help="how BLEU splits words (default: the run's config.evaluation.tokenize); for PHOENIX "
        "use none",
    )
    flags.add_argument(
        "--phoenix_gloss_wer",
        action="store_true",
        help="also report PHOENIX's own gloss error rate (always on a data set of that name)",
    )
    flags.add_argument(
        "--lowercase",
        action="store_true",
        help="score without regard to case (always where the tokenizer lowercases)",
    )
    flags.add_argument(
        "--calibrate",
        action="store_true",
        help="first calibrate the confidences of these decoders on the run's "
        "config.data.val_split, and write calibration.json",
    )
    flags.add_argument(
        "--by",
        type=_names,
        metavar="COLUMN",
        help="also print errors by the values of columns, separated by commas: signer, video_id, "
        "or any of --table (the report has those by signer in any case)",
    )
    flags.add_argument(
        "--table",
        type=local_path,
        help="the table that the data set was built from, for other columns of --by",
    )
    flags.add_argument("--data_dir", type=local_path_string, help="default: that of the run")
    flags.add_argument("--name", help="another data set than that of the run")
    flags.add_argument(
        "--output",
        type=local_path,
        help="JSON file with all predictions; the report is written beside it "
        "(default: <workdir>/eval/<split>.json)",
    )
    add_inference_flags(flags)
    return flags.parse_args(argv)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if "" in names:
        raise argparse.ArgumentTypeError("a name is empty; allowed: names separated by commas")
    return names


def _decoders(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in DECODER_NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is not a decoder; allowed: {', '.join(DECODER_NAMES)}, "
            "separated by commas"
        )
    return names
