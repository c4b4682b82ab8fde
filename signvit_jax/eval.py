"""Evaluates a trained model on a split: every clip once, by each of the decoders asked for.

Prints a table (BLEU-1..4 and chrF by sacreBLEU, ROUGE-L, WER, exact match, against the raw references) and writes all predictions to a JSON file and
an HTML report. Only parameters and JSON are read from the workdir; no config file is run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from signvit_jax.command_line import parser, set_up_jax
from signvit_jax.exit_codes import DONE, run_command

DECODERS = ("greedy", "beam", "ctc")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    set_up_jax()

    from signvit_jax.evaluation import results
    from signvit_jax.evaluation.evaluate import evaluate
    from signvit_jax.evaluation.metrics import format_table
    from signvit_jax.evaluation.report import write_report
    from signvit_jax.training.signals import StopRequest
    from signvit_jax.training.trained_model import load_trained

    model = load_trained(arguments.workdir, arguments.checkpoint)
    with StopRequest() as stop, Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{arguments.split or model.config.data.test_split}: decoding", total=None)
