"""Train a student that also learns from a teacher: from the outputs of a trained model's decoder
and CTC head, and from its encoder's features.

The student is the model of --config, usually a smaller one; the teacher is the best checkpoint of
another workdir. Both need the same data set and vocabulary. Everything else is as in
`signvit train`: the workdir, resuming by the same command, signals, several processes and exit
codes. Weights and temperature: --config.training.distillation.*; see docs/distillation.md.
"""

from collections.abc import Sequence

from signvit_jax.commands.train import run_training
from signvit_jax.files.local_paths import local_path_string
from signvit_jax.runtime.command_line import parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "signvit distill --teacher=runs/dense_vit --config=mobilenet_v3 --workdir=runs/student",
    )
    flags.add_argument(
        "--teacher",
        required=True,
        type=local_path_string,
        metavar="WORKDIR",
        help="folder of the run whose best checkpoint is the teacher",
    )
    return run_training(flags, argv, "signvit_jax.distill")
