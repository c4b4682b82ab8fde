"""Trains a student that also learns from a teacher: from what the decoder and the CTC head of a trained model say, and what its encoder sees.

The student is the model of --config, usually a smaller one; the teacher is the best checkpoint of another workdir. Both must be of the same data set
and vocabulary. All else is as in signvit_jax.train: the workdir, resuming by the same command, signals, several processes, exit codes.
Weights and temperature: --config.training.distillation.*; docs/distillation.md says what they are for.
"""

from collections.abc import Sequence

from signvit_jax.cli.common import parser
from signvit_jax.commands.train import run_training
from signvit_jax.files.local_paths import local_text


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "python -m signvit_jax.distill --teacher=runs/dense_vit --config=configs/mobilenet_v3.py --workdir=runs/student",
    )
    flags.add_argument(
        "--teacher",
        required=True,
        type=local_text,
        metavar="WORKDIR",
        help="folder of the run whose best checkpoint teaches",
    )
    return run_training(flags, argv, "signvit_jax.distill")
