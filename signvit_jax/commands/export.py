"""Write a trained model as an export: a folder of its own, with a report of what the export
changes and a model card.

  int8         parameters in INT8, a quarter of the bytes; load_translator, translate and eval
               open it
  onnx         programs for onnxruntime, the encoder's backbone in INT8: fastest on a CPU
               (translate --backend=onnx)
  stablehlo    programs for XLA (jax.export), for any number of clips, and the parameters
  safetensors  parameters in float32, under the reference system's names where it has them all;
               `signvit convert` reads it

The report (report.json, and printed) gives size, largest differences, scores and seconds before
and after. Scores need the run's data set; INT8 inputs need its training clips. Exit codes: 0 done,
1 failed, 2 wrong usage, or something cannot be exported; nothing is then left behind.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from signvit_jax.cli.inference_flags import add_checkpoint_flag
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.runtime.command_line import integer, parser
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.standard_streams import clean
from signvit_jax.runtime.terminal import print_table, progress_bar

_FORMATS = ("int8", "onnx", "stablehlo", "safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    set_up_jax()

    from signvit_jax.checkpoints.data_folder import open_data_of_run, with_data_of_run
    from signvit_jax.data.dataset import DatasetError, Split
    from signvit_jax.exporting.comparison import compare
    from signvit_jax.exporting.int8_input_ranges import calibration_batches
    from signvit_jax.exporting.model_card import CardFields, model_card
    from signvit_jax.exporting.report import Report, report_table
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
            f"--workdir={arguments.workdir} names {1 + len(model.others)} workdirs; "
            "an export has one model"
        )
    manifest = ExportManifest(arguments.format, quantize, model.step, dict(model.validation))
    config = with_data_of_run(model.config, model.workdir, arguments.data_dir, arguments.name)
    data = config.data

    def split(name: str) -> Split:
        return open_data_of_run(config, named=arguments.name is not None).split(name)

    def scored_split() -> Split | None:
        try:
            return split(arguments.split or data.test_split)
        except DatasetError as error:
            print(clean(f"warning: no scores in the report: {error}", keep="\n"), file=sys.stderr)
            return None

    def calibration():
        return calibration_batches(split(data.train_split), model, arguments.calibration_clips)

    with ExportFolder.new(arguments.output) as folder:
        write_export(model, folder, manifest, calibration)
        with progress_bar(Console(stderr=True)) as bar:
            test = scored_split()
            clips = 2 * min(arguments.report_clips, len(test)) if test else None
            task = bar.add_task("scoring, before and after", total=clips)
            comparison = compare(
                model, folder, test, arguments.report_clips, lambda clips: bar.advance(task, clips)
            )
        report: Report = {
            "format": manifest.format,
            "quantize": manifest.quantize,
            "checkpoint_step": model.step,
            **comparison,
        }
        folder.write_text(folder.report_json, json.dumps(report, indent=2) + "\n")
        fields = CardFields(arguments.sign_language, arguments.text_language, arguments.license)
        folder.write_text(folder.model_card, model_card(model, manifest, report, fields))
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
        "signvit export --workdir=runs/mine --format=onnx --output=exports/mine "
        "--license=CC-BY-4.0",
    )
    flags.add_argument(
        "--workdir", required=True, type=local_path_string, help="folder of a training run"
    )
    flags.add_argument(
        "--format",
        required=True,
        choices=_FORMATS,
        help="int8 and safetensors hold numbers, onnx and stablehlo programs",
    )
    flags.add_argument("--output", required=True, type=local_path, help="folder to create")
    add_checkpoint_flag(flags)
    flags.add_argument(
        "--quantize",
        choices=("weights", "weights_and_inputs", "none"),
        help="what is stored in INT8: for int8, weights (default) or weights_and_inputs; for onnx, "
        "weights_and_inputs (default) or none",
    )
    flags.add_argument(
        "--calibration_clips",
        type=integer(1),
        default=64,
        help="training clips that calibrate the input ranges (64)",
    )
    flags.add_argument(
        "--report_clips",
        type=integer(1),
        default=64,
        help="clips, evenly spread over the split, to score before and after (64)",
    )
    flags.add_argument("--split", help="split to score (the run's config.data.test_split)")
    flags.add_argument("--data_dir", type=local_path_string, help="default: that of the run")
    flags.add_argument("--name", help="another data set than that of the run")
    card = flags.add_argument_group(
        "model card", "values not given are filled in where the data set is known"
    )
    card.add_argument("--sign_language", help="such as 'Indian Sign Language'")
    card.add_argument("--text_language", help="such as 'English'")
    card.add_argument(
        "--license",
        "--licence",
        help="license that you release the model under; the data's license limits it",
    )
    return flags.parse_args(argv)
