r"""Train the rows of an ablation with several seeds; write a table and learning curves.

    python scripts/ablate.py --data_dir=data --output=runs/ablation \
        --rows=small,reference_family --seeds=0,1,2 --jobs=2

A row is `configs/small.py` with a few values changed (ROWS below). All rows see the same clips
equally often, except `reference_family`, which sees them more often. --rows=student,distilled
trains a narrow MobileNetV3 without and with a teacher (STUDENTS below):

    python scripts/ablate.py --data_dir=data --output=runs/students --rows=student,distilled \
        --teacher=runs/small --docs=docs/distillation.md

Finished runs are skipped; interrupted ones resume. The table is printed. With --docs it is also
written into that Markdown file, between BEGIN and END (below), and the learning curves are written
beside the file as an image.
"""

import argparse
import dataclasses
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from signvit_jax.runtime.exit_codes import DONE, FAILED, run_command
from signvit_jax.telemetry.metrics_file import read_metrics

DECODERS = ("greedy", "beam", "ctc")
BEGIN, END = "<!-- table: scripts/ablate.py -->", "<!-- end of table -->"


@dataclasses.dataclass(frozen=True)
class Row:
    """Changes to `configs/small.py`, as `key=value` without the leading `config.`."""

    title: str
    overrides: tuple[str, ...] = ()
    has_teacher: bool = False  # whether the row is distilled from the model of --teacher


# The reference's model at the size of `small`: learned positions near zero, mean over the patches,
# CTC over the pooled queries, and none of our additions. Its step takes half as long as that of
# `small`. It trains for three times as many epochs, so it gets 1.5 times the compute.
REFERENCE_FAMILY = (
    "model.encoder.stem=patch",
    "model.encoder.frame_pooling=mean",
    "model.encoder.position_init=normal",
    "model.temporal.time_positions=none",
    "model.temporal.num_attention_layers=0",
    "model.decoder.memory=queries",
    "model.decoder.final_norm=False",
    "model.temporal.num_queries=32",
    "model.ctc.source=queries",
    "model.ctc.target=text",
    "model.decoder.gloss_memory=False",
    "training.ema_decay=0.0",
    "training.weight_decay_on=all",
    "model.encoder.zoom=none",
    "model.encoder.motion=none",
    "training.ctc_flat_start_steps=0",
    "training.num_epochs=12",
)

ROWS = {
    "small": Row("configs/small.py"),
    "reference_family": Row("the reference's family at this size", REFERENCE_FAMILY),
    "no_flat_start": Row("no flat start of CTC", ("training.ctc_flat_start_steps=0",)),
    "no_zoom": Row("full images, not cropped to the motion", ("model.encoder.zoom=none",)),
    "no_motion": Row("images alone, no motion channels", ("model.encoder.motion=none",)),
    "text_ctc": Row(
        "CTC spells text, no glosses", ("model.ctc.target=text", "model.decoder.gloss_memory=False")
    ),
    "no_gloss_memory": Row("decoder reads no glosses", ("model.decoder.gloss_memory=False",)),
    "ctc_queries": Row(
        "CTC over the pooled queries", ("model.ctc.source=queries", "model.temporal.num_queries=32")
    ),
    "memory_queries": Row(
        "decoder reads pooled queries",
        ("model.decoder.memory=queries", "model.temporal.num_queries=32"),
    ),
    "patch_stem": Row("linear patches, no convolutional stem", ("model.encoder.stem=patch",)),
    "mean_pooling": Row(
        "frame feature = mean over the patches", ("model.encoder.frame_pooling=mean",)
    ),
    "attention_pooling": Row(
        "frame feature = attention over the patches", ("model.encoder.frame_pooling=attention",)
    ),
    "normal_positions": Row("positions start near zero", ("model.encoder.position_init=normal",)),
    "no_temporal_attention": Row(
        "no self-attention between frames", ("model.temporal.num_attention_layers=0",)
    ),
    "no_augmentation": Row(
        "no augmentation",
        tuple(
            f"data.augment.{name}=0"
            for name in (
                "rotate",
                "translate",
                "scale",
                "brightness",
                "contrast",
                "saturation",
                "hue",
                "speed",
            )
        ),
    ),
    "no_ema": Row("no average of the weights", ("training.ema_decay=0.0",)),
    "half_rate": Row(
        "half the learning rates", ("training.encoder_lr=7.5e-4", "training.decoder_lr=7.5e-4")
    ),
}

# A student with a seventh of MobileNetV3-Large's parameters, trained on the data of `small` for one
# epoch. Without a teacher it learns almost nothing in that time.
STUDENT = (
    "model.encoder.backbone=mobilenet_v3_large",
    "model.encoder.mobilenet_width=0.35",
    "model.encoder.output_dim=336",
    "model.encoder.batch_norm_momentum=0.1",
    "model.encoder.zoom=none",
    "model.encoder.stem=patch",
    "model.encoder.frame_pooling=mean",
    "model.encoder.position_init=normal",
    "training.num_epochs=1",
    "training.min_steps=0",
)
STUDENTS = {
    "student": Row("MobileNetV3 at 0.35 of its width, alone", STUDENT),
    "distilled": Row("the same with a teacher", STUDENT, has_teacher=True),
}
# Crops of hands, cut out of images that are larger than those of `small`.
_LARGE = (
    "data.image_size=160",
    "model.encoder.view_size=48",
    "model.encoder.motion=magnitude",
)
HANDS = {
    "large_images": Row("images of 160 pixels in a view of 48, magnitudes of motion", _LARGE),
    "hands_motion": Row(
        "the same and crops of hands, found by motion", (*_LARGE, "model.encoder.crops=hands")
    ),
    "hands": Row(
        "the same, found by keypoints where there are any",
        (*_LARGE, "model.encoder.crops=hands", "data.keypoints=auto"),
    ),
}
ALL_ROWS = ROWS | STUDENTS | HANDS


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    runs = [(name, seed) for seed in arguments.seeds for name in arguments.rows]
    failed = _train_all(runs, arguments)
    table = _table(arguments)
    print(table)
    if arguments.docs:
        _write_into(arguments.docs, table)
        _plot_curves(arguments, arguments.docs.with_suffix(".png"))
    return FAILED if failed else DONE


def _train_all(runs: list[tuple[str, int]], arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Train in --jobs threads with their own cores; return the (row, seed) pairs that failed."""
    waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for run in runs:
        waiting.put(run)
    cores = sorted(os.sched_getaffinity(0))
    cores_per_job = max(len(cores) // arguments.jobs, 1)
    failed: list[tuple[str, int]] = []

    def work(job: int) -> None:
        first = job * cores_per_job % len(cores)
        cores_of_job = set(cores[first : first + cores_per_job])
        while True:
            try:
                run = waiting.get_nowait()
            except queue.Empty:
                return
            if not _train(*run, arguments, cores_of_job):
                failed.append(run)

    threads = [threading.Thread(target=work, args=(job,)) for job in range(arguments.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def _train(name: str, seed: int, arguments: argparse.Namespace, cores: set[int]) -> bool:
    """Train and evaluate a row with a seed, unless that is done; return False if it failed."""
    workdir = _workdir(arguments.output, name, seed)
    result = workdir / "ablation.json"
    if result.exists():
        return True
    workdir.mkdir(parents=True, exist_ok=True)
    is_resumed = (workdir / "checkpoints").exists()  # the time of its first part is not known
    scores_file = workdir / "eval" / f"{arguments.split}.json"
    train = _train_command(ALL_ROWS[name], seed, arguments)
    evaluate = [
        "signvit_jax.eval",
        f"--split={arguments.split}",
        f"--decode={','.join(DECODERS)}",
        f"--output={scores_file}",
    ]
    seconds = 0.0  # CPU time of the training; wall time would depend on the machine's other work
    with (workdir / "ablation.log").open("a") as log:
        for command in (train, evaluate):
            process = subprocess.Popen(
                [sys.executable, "-m", *command, f"--workdir={workdir}"], stdout=log, stderr=log
            )
            os.sched_setaffinity(process.pid, cores)  # threads that it starts later inherit it
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                print(
                    f"{name}, seed {seed}: {command[0]} ended with {process.returncode}; "
                    f"see {workdir / 'ablation.log'}",
                    file=sys.stderr,
                )
                return False
            if command is train:
                seconds = usage.ru_utime + usage.ru_stime
    by_decoder = json.loads(scores_file.read_text())["decoders"]
    content = {
        "minutes": None if is_resumed else seconds / 60,
        "decoders": {decoder: by_decoder[decoder]["scores"] for decoder in DECODERS},
    }
    result.write_text(json.dumps(content, indent=1))
    print(
        f"{name}, seed {seed}: {seconds / 60:.0f} min of one core, "
        f"WER {content['decoders']['beam']['wer']:.3f} (beam)",
        file=sys.stderr,
    )
    return True


def _train_command(row: Row, seed: int, arguments: argparse.Namespace) -> list[str]:
    """Return the module that trains a row, and its flags without --workdir."""
    overrides = [
        *row.overrides,
        *arguments.override,
        f"training.seed={seed}",
        f"data.data_dir={arguments.data_dir}",
    ]
    command = ["signvit_jax.train"]
    if row.has_teacher:
        command = ["signvit_jax.distill", f"--teacher={arguments.teacher}"]
    return [*command, "--config=small", *(f"--config.{override}" for override in overrides)]


def _table(arguments: argparse.Namespace) -> str:
    """Return the table in Markdown: mean (minimum to maximum) over the seeds that have finished.

    A row without a finished seed is left out.
    """
    lines = [
        "| row | seeds | WER greedy | WER beam | WER CTC | BLEU-4 beam | minutes of one core |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in arguments.rows:
        files = [
            _workdir(arguments.output, name, seed) / "ablation.json" for seed in arguments.seeds
        ]
        runs = [json.loads(file.read_text()) for file in files if file.exists()]
        if not runs:
            continue
        cells = []
        for decoder in DECODERS:
            cells.append(_spread([run["decoders"][decoder]["wer"] for run in runs], ".3f"))
        cells.append(_spread([run["decoders"]["beam"]["bleu4"] for run in runs], ".1f"))
        minutes = [run["minutes"] for run in runs if run["minutes"] is not None]
        cells.append(_spread(minutes, ".0f"))
        lines.append(
            f"| {ALL_ROWS[name].title} (`{name}`) | {len(runs)} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], format_spec: str) -> str:
    if not values:
        return "-"
    mean = format(statistics.mean(values), format_spec)
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):{format_spec}}–{max(values):{format_spec}})"


def _write_into(docs: Path, table: str) -> None:
    text = docs.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    docs.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def _plot_curves(arguments: argparse.Namespace, path: Path) -> None:
    """Plot the validation WER over the steps, unless every run was evaluated only once."""
    series = {}
    for name in arguments.rows:
        files = [_workdir(arguments.output, name, seed) / "metrics.csv" for seed in arguments.seeds]
        series[name] = [read_metrics(file) for file in files if file.exists()]
    all_runs = [run for runs in series.values() for run in runs]
    if not any(len(run.get("validation/wer", ([], []))[0]) > 1 for run in all_runs):
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharex=True)
    for number, (name, runs) in enumerate(series.items()):
        for run in runs:
            for axis, key in zip(axes, ("validation/wer", "validation/ctc_wer")):
                if key in run:
                    axis.plot(
                        *run[key],
                        color=f"C{number}",
                        lw=1.2,
                        label=name if run is runs[0] else None,  # one legend entry per row
                    )
    for axis, title in zip(axes, ("decoder, greedy", "CTC, greedy")):
        axis.set(title=title, xlabel="step", ylabel="validation WER", ylim=(0, 1.5))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _workdir(output: Path, name: str, seed: int) -> Path:
    return output / name / f"seed{seed}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--data_dir", required=True)
    flags.add_argument("--output", type=Path, default=Path("runs/ablation"))
    flags.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=list(ROWS),
        help=f"some of {','.join(ALL_ROWS)} (default: {','.join(ROWS)})",
    )
    flags.add_argument(
        "--teacher", help="workdir of a finished run of configs/small.py, for rows with a teacher"
    )
    flags.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2]
    )
    flags.add_argument("--split", default="test")
    flags.add_argument(
        "--jobs", type=int, default=1, help="parallel runs, which share the cores evenly"
    )
    flags.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change this in every row, such as training.num_epochs=4",
    )
    flags.add_argument(
        "--docs",
        type=Path,
        help="Markdown file with marks for the table; the curves are saved beside it",
    )
    arguments = flags.parse_args(argv)
    if unknown := [name for name in arguments.rows if name not in ALL_ROWS]:
        flags.error(f"unknown row {unknown[0]!r}; allowed: {', '.join(ALL_ROWS)}")
    students = [name for name in arguments.rows if ALL_ROWS[name].has_teacher]
    if students and not arguments.teacher:
        flags.error(
            f"row {students[0]!r} needs --teacher=WORKDIR, a finished run of configs/small.py"
        )
    return arguments


if __name__ == "__main__":
    sys.exit(run_command(main))
