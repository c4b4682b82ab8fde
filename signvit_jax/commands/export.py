"""Writes a trained model as a folder of its own, with a report of what that changes and a model card.

  int8         parameters in INT8, a quarter of the bytes; load_translator, translate and eval open it
  onnx         programs for onnxruntime, the encoder's backbone in INT8: the quick way on a CPU (translate --backend=onnx)
  stablehlo    programs for XLA (jax.export), with any number of clips, and the parameters
  safetensors  parameters in float32, under the reference system's names where it has them all; signvit_jax.convert takes it

The report (report.json, and printed) gives size, largest differences, scores and seconds before and after; scores need the run's data set, and INT8
inputs its training clips. Exit codes: 0 done, 2 wrong usage, or something cannot be exported; nothing is then left behind.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from signvit_jax.cli.common import parser, set_up_jax
from signvit_jax.files.local_paths import local_path, local_text
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.streams import clean
from signvit_jax.runtime.terminal import counted, print_table

_FORMATS = ("int8", "onnx", "stablehlo", "safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    set_up_jax()

    from signvit_jax.checkpoints.data_folder import with_data_of_run, open_data_of_run
    from signvit_jax.data.dataset import DatasetError, Split
    from signvit_jax.exporting.calibration import calibration_batches
    from signvit_jax.exporting.comparison import compare
    from signvit_jax.exporting.model_card import Described, model_card
    from signvit_jax.exporting.report import report_table
    from signvit_jax.exporting.writing import write_export
    from signvit_jax.inference.trained_model import load_trained
    from signvit_jax.serving.export_dir import (
        ExportError,
        ExportFolder,
        ExportManifest,
        resolve_quantization,
    )

    quantize = resolve_quantization(arguments.format, arguments.quantize)
    model = load_trained(arguments.workdir, arguments.checkpoint)
    if model.others:
        raise ExportError(
            f"--workdir={arguments.workdir} names {1 + len(model.others)} workdirs; an export is of one"
        )
    contents = ExportManifest(arguments.format, quantize, model.step)
    config = with_data_of_run(model.config, model.workdir, arguments.data_dir, arguments.name)
    data = config.data

    def split(name: str) -> Split:
        return open_data_of_run(config, named=arguments.name is not None).split(name)

    def scored() -> Split | None:
        try:
            return split(arguments.split or data.test_split)
        except DatasetError as error:
            print(clean(f"warning: no scores in the report: {error}", keep="\n"), file=sys.stderr)
            return None

    with ExportFolder.made(arguments.output) as folder:
        write_export(
            model,
            folder,
            contents,
            lambda: calibration_batches(
                split(data.train_split), model, arguments.calibration_clips
            ),
        )
        report = {
            "format": contents.format,
            "quantize": contents.quantize,
            "checkpoint_step": model.step,
        }
        with counted(Console(stderr=True)) as bar:
            test = scored()
            task = bar.add_task(
                "scoring, before and after",
                total=2 * min(arguments.report_clips, len(test)) if test else None,
            )
            report |= compare(
                model, folder, test, arguments.report_clips, lambda clips: bar.advance(task, clips)
            )
        folder.write_text(folder.report_json, json.dumps(report, indent=2) + "\n")
        described = Described(arguments.sign_language, arguments.text_language, arguments.license)
        folder.write_text(folder.model_card, model_card(model, contents, report, described))
    print_table(report_table(report))
    print(
        clean(
            f"export:     {arguments.output}\nmodel card: {arguments.output / 'README.md'}",
            keep="\n",
        )
    )
    return DONE


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(
        __doc__,
        "python -m signvit_jax.export --workdir=runs/mine --format=onnx --output=exports/mine --license=CC-BY-4.0",
    )
    flags.add_argument("--workdir", required=True, type=local_text, help="folder of a training run")
    flags.add_argument("--format", required=True, choices=_FORMATS)
    flags.add_argument("--output", required=True, type=local_path, help="folder to make")
    flags.add_argument("--checkpoint", choices=("best", "last"), default="best")
    flags.add_argument(
        "--quantize",
        choices=("weights", "weights_and_inputs", "none"),
        help="what is INT8: of int8, weights (default) or weights_and_inputs; of onnx, weights_and_inputs (default) or none",
    )
    flags.add_argument(
        "--calibration_clips",
        type=_count,
        default=64,
        help="training clips that show how large inputs become (64)",
    )
    flags.add_argument(
        "--report_clips",
        type=_count,
        default=64,
        help="clips, evenly over the split, that are scored before and after (64)",
    )
    flags.add_argument("--split", help="whose clips are scored (the run's config.data.test_split)")
    flags.add_argument("--data_dir", type=local_text, help="default: that of the run")
    flags.add_argument("--name", help="another data set than that of the run")
    card = flags.add_argument_group(
        "model card", "what is not given is filled in where the data set is known"
    )
    card.add_argument("--sign_language", help="such as 'Indian Sign Language'")
    card.add_argument("--text_language", help="such as 'English'")
    card.add_argument(
        "--license",
        "--licence",
        help="under which you give the model away; that of the data bounds it",
    )
    return flags.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a whole number from 1 up")
    return int(text)
