r"""Plan the presets for accelerators, and write the memory each needs into its "Hardware:" line.

    pip install -e '.[plan]'
    python scripts/make_hardware.py                     # all rows; those that are done are skipped
    python scripts/make_hardware.py --only=dense_vit    # one preset or group: scaling, tensor, ...
    python scripts/make_hardware.py --write             # only write the pages and the lines

Each row is one call of XLA's compiler for devices that this machine does not have, and takes one to
several minutes of one core. Its result is written to docs/benchmarks/plans.json at once. A row is
planned again only if its training step has changed: the results have a digest of the program that
was compiled. The row of a preset may have alternatives: other settings that give the same result.
The preset's own settings may take at most a tenth longer than the fastest of those that fit. Then
the presets' lines, docs/benchmarks/plans.md and the table of docs/scale.md are written.
"""

import argparse
import dataclasses
import json
import re
import sys
import textwrap
from pathlib import Path

from signvit_jax.config.files import load_config
from signvit_jax.files.atomic import write_atomically
from signvit_jax.planning.compile_elsewhere import plan_elsewhere
from signvit_jax.planning.memory import GIB
from signvit_jax.planning.plan_report import COMFORTABLE
from signvit_jax.planning.roofline import MEMORY_SHARE, PRODUCT_SHARE, Roofline
from signvit_jax.planning.step_plan import PlanRequest, StepPlan
from signvit_jax.runtime.exit_codes import DONE, FAILED, run_command

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "benchmarks" / "plans.json"
PAGE = ROOT / "docs" / "benchmarks" / "plans.md"
SCALE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- table: scripts/make_hardware.py -->", "<!-- end of table -->"
SCALING, BENCHMARK, DROPOUT, TENSOR = "scaling", "benchmark", "dropout", "tensor"
SLOWER = 1.1  # limit of the time of a preset's step, relative to the fastest alternative that fits
_PLANS_HEAD = (
    "| preset | devices | changed | GiB | of | TFLOP | GB moved | ms | MFU |",
    "|---|---|---|---|---|---|---|---|---|",
)
_SECTIONS = {
    BENCHMARK: "What `scripts/bench/gpu.sh` measures besides the presets",
    DROPOUT: "Other generators of dropout",
    TENSOR: "A tensor axis",
}
_CARDS = {"h100": "80 GB H100", "a100_40": "40 GB A100", "a100_80": "80 GB A100"}
_CARDS |= {name: name for name in ("v5e", "v5p", "v6e")}


@dataclasses.dataclass(frozen=True)
class Row:
    """A preset on devices.

    `overrides`: as `key=value`. `memory`: of a device in GiB, if it is not the usual one.
    `alternatives`: overrides that change how the step is computed but not its result; their plans
    are compared with this one.
    """

    group: str  # the preset whose line has this row, or the name of a group of other rows
    preset: str
    device: str
    devices: int = 1
    overrides: tuple[str, ...] = ()
    memory: float | None = None
    alternatives: tuple[tuple[str, ...], ...] = ()

    @property
    def is_of_preset(self) -> bool:
        return self.group == self.preset

    @property
    def others(self) -> tuple["Row", ...]:
        """The rows of the alternatives."""
        rows = []
        for overrides in self.alternatives:
            changed = dict(map(_pair, (*self.overrides, *overrides)))
            together = tuple(f"{key}={value}" for key, value in changed.items())
            rows.append(dataclasses.replace(self, overrides=together, alternatives=()))
        return tuple(rows)

    @property
    def key(self) -> str:
        memory = f" {self.memory:g}GiB" if self.memory else ""
        return " ".join([self.preset, f"{self.devices}x{self.device}{memory}", *self.overrides])

    @property
    def card(self) -> str:
        return f"{self.memory:g} GB GPU" if self.memory else _CARDS[self.device]


def _scaled(device: str, devices: int, clips: int) -> Row:
    """`dense_vit` with a batch size in proportion to the number of devices."""
    overrides = []
    if devices > 1:
        overrides.append(f"training.batch_size={clips * devices}")
        overrides.append(f"mesh.fsdp={min(devices, 8)}")
    return Row(SCALING, "dense_vit", device, devices, tuple(overrides))


def _names(microbatches: int) -> tuple[str, str]:
    """Overrides for remat by names, and the number of microbatches."""
    return "training.remat=names", f"training.gradient_accumulation={microbatches}"


def _benchmark(preset: str, device: str, *overrides: str) -> Row:
    """A row of scripts/bench/gpu.py, whose page shows this plan beside what was measured."""
    return Row(BENCHMARK, preset, device, 1, overrides)


# The reference's sizes with fused attention: what scripts/bench/gpu.py calls `reference`.
_MAIN_ROW = (
    "training.remat=names",
    "model.encoder.attention_dropout=0.0",
    "model.encoder.dropout_rng_impl=hash",
)
_IN_TWO = ("training.gradient_accumulation=2",)
ROWS = (
    Row("dense_vit", "dense_vit", "h100", alternatives=(_names(4),)),
    Row("dense_vit", "dense_vit", "a100_40", 1, _IN_TWO, alternatives=(_names(8),)),
    Row("dense_vit", "dense_vit", "v5e", 8, ("mesh.fsdp=8",), alternatives=(_names(2),)),
    Row("dense_vit_100m", "dense_vit_100m", "a100_40", memory=24, alternatives=(_names(8),)),
    Row("dense_vit_100m", "dense_vit_100m", "v5e", 4, ("mesh.fsdp=4",), None, (_names(4),)),
    Row("dense_vit_server", "dense_vit_server", "a100_40", 8, alternatives=(_names(4),)),
    Row(
        "dense_vit_server",
        "dense_vit_server",
        "v5e",
        devices=8,
        overrides=("training.gradient_accumulation=4",),
        alternatives=(_names(8),),
    ),
    Row("reference", "reference", "a100_40", alternatives=(_names(1),)),
    Row("reference", "reference", "v5e", 4, ("mesh.fsdp=4",), alternatives=(_names(1),)),
    Row("mobilenet_v3", "mobilenet_v3", "a100_40", memory=16),
    Row("mobilenet_v3", "mobilenet_v3", "v5e", 4),
    _benchmark("reference", "h100", *_MAIN_ROW),
    _benchmark("reference", "a100_40", *_MAIN_ROW),
    _benchmark("dense_vit_100m", "h100"),
    *(
        Row(DROPOUT, "dense_vit", "v5e", 256, (*_scaled("v5e", 256, 2).overrides, generator))
        for generator in (
            "model.encoder.dropout_rng_impl=rbg",
            "model.encoder.dropout_rng_impl=threefry",
        )
    ),
    Row(
        TENSOR,
        "dense_vit",
        "h100",
        devices=256,
        overrides=("training.batch_size=256", "mesh.fsdp=8", "mesh.tensor=2"),
    ),
    *(_scaled("h100", devices, 16) for devices in (1, 8, 32, 256)),
    *(_scaled("v5e", devices, 2) for devices in (4, 32, 256)),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The stored numbers of a row's plan. Times are in seconds; sizes are in bytes per device.

    A compiler for TPUs refuses a program that does not fit: then all numbers are 0, except those of
    memory.
    """

    program: str  # digest of the compiled program
    total: int  # memory that the step needs
    usable: int  # memory that a process may take
    perfect: float  # time with perfect kernels
    careful: float  # time with kernels at the shares of the peaks that kernels usually reach
    communication: float  # time of collectives, in addition
    mfu: float
    flops: float  # of each device in a step
    moved: int  # bytes between the device and its memory in a step
    sent: dict[str, float]  # axes of the mesh -> bytes that a device sends over them
    clips: int  # in a batch
    mesh: dict[str, int]
    settings: dict[str, str]

    @property
    def share(self) -> float:
        return self.total / self.usable

    @property
    def step(self) -> float:
        return self.careful + self.communication

    @property
    def fits(self) -> bool:
        return self.share <= COMFORTABLE


def read_results() -> dict[str, Result]:
    """Return the committed results by key of their row."""
    if not RESULTS.is_file():
        return {}
    values = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {key: Result(**value) for key, value in values.items()}


def plan(row: Row, known: Result | None) -> Result | None:
    """Return the row's result; None if its program is the same as that of the `known` result."""
    config = load_config(row.preset, [_pair(override) for override in row.overrides])
    request = PlanRequest(row.device, row.devices, row.memory)
    step_plan = plan_elsewhere(config, request, unless=known.program if known else "")
    return None if step_plan is None else _result(step_plan)


def fastest(row: Row, results: dict[str, Result]) -> float:
    """Return the least seconds of a step among the row and its alternatives that fit."""
    planned = [results[one.key] for one in (row, *row.others) if one.key in results]
    return min((result.step for result in planned if result.fits), default=float("inf"))


def _result(step_plan: StepPlan) -> Result:
    cost = step_plan.cost
    times = cost.roofline if cost else Roofline(0.0, 0.0, 0.0, 0.0)
    sent = cost.collectives if cost else {}
    return Result(
        program=step_plan.program,
        total=step_plan.total,
        usable=step_plan.kind.usable,
        perfect=times.perfect,
        careful=times.careful,
        communication=times.communication,
        mfu=step_plan.mfu,
        flops=cost.flops if cost else 0.0,
        moved=cost.bytes if cost else 0,
        sent={axes: sum(kinds.values()) for axes, kinds in sent.items()},
        clips=step_plan.clips,
        mesh=step_plan.mesh,
        settings=step_plan.settings,
    )


def too_large_or_slow(row: Row, results: dict[str, Result]) -> str | None:
    """Return a one-line complaint about a row's plan; None if it fits and is fast enough."""
    result = results[row.key]
    if not result.fits:
        share = f"{result.share:.0%}"
        return f"{row.key}: {share} of what a process may take; allowed: {COMFORTABLE:.0%}"
    best_step = fastest(row, results)
    if result.step > SLOWER * best_step:
        return (
            f"{row.key}: {1e3 * result.step:.0f} ms a step; the fastest alternative that fits "
            f"takes {1e3 * best_step:.0f}"
        )
    return None


def hardware_line(preset: str, results: dict[str, Result]) -> str:
    """Return the paragraph "Hardware" of a preset's docstring."""
    parts = []
    for row in ROWS:
        if row.group != preset or row.key not in results or not results[row.key].fits:
            continue
        result = results[row.key]
        flags = "".join(f" with --config.{override}" for override in row.overrides)
        devices = "one" if row.devices == 1 else f"each of {row.devices}"
        parts.append(f"{result.total / GIB:.1f} GiB on {devices} {row.card}{flags}")
    if not parts:
        return "Hardware: not planned yet (scripts/make_hardware.py)."
    text = f"Hardware, as planned by scripts/make_hardware.py: {'; '.join(parts)}."
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def with_hardware(source: str, line: str) -> str:
    """Return the source of a preset with `line` as the paragraph "Hardware" of its docstring."""
    return re.sub(
        r'^Hardware\b.*?(?=^\n|^"""|^Not )', line + "\n", source, count=1, flags=re.M | re.S
    )


def plans_page(results: dict[str, Result]) -> str:
    """Return the table of all presets' rows in Markdown."""
    lines = [
        "# Plans of the presets",
        "",
        "What XLA's compilers plan for devices that were not there: nothing was executed, and no",
        "number here is a measurement. Written by `scripts/make_hardware.py`, with the tool behind",
        "`signvit inspect --device`.",
        "",
        "A step is the longest clips' (`data.num_frames`). GiB: of each device, with the next",
        "batch. May take: 0.92 of a GPU's memory, which is what commands let JAX take; all that a",
        "TPU's runtime leaves. TFLOP: done by each device in a step. ms: by the roofline, with",
        f"products at {PRODUCT_SHARE:.0%} of the peak and memory at {MEMORY_SHARE:.0%} of its",
        "bandwidth, collectives behind them.",
        "",
        *_PLANS_HEAD,
    ]
    presets = [row for row in ROWS if row.is_of_preset]
    lines += [_plan_line(row, results[row.key]) for row in presets if row.key in results]
    lines += [
        "",
        "## Other settings with the same result",
        "",
        "A preset keeps the simplest settings that fit and take at most a tenth longer than the",
        "fastest of these that fits; `reference` keeps `dots`, with which its figures were",
        "compared. Fewer microbatches than these do not fit.",
        "",
        *_PLANS_HEAD,
    ]
    others = [other for row in presets for other in row.others]
    lines += [_plan_line(other, results[other.key]) for other in others if other.key in results]
    for group, title in _SECTIONS.items():
        rows = [row for row in ROWS if row.group == group and row.key in results]
        lines += ["", f"## {title}", "", *_PLANS_HEAD]
        lines += [_plan_line(row, results[row.key]) for row in rows]
    return "\n".join(lines) + "\n"


def _plan_line(row: Row, result: Result) -> str:
    changed = ", ".join(f"`{override}`" for override in row.overrides)
    times = "| | does not fit |"
    if result.fits:
        times = (
            f"{result.flops / 1e12:.0f} | {result.moved / 1e9:,.0f} | "
            f"{1e3 * result.step:,.0f} | {result.mfu:.0%}"
        )
    return (
        f"| {row.preset} | {row.devices} x {row.card} | {changed} | {result.total / GIB:.1f} | "
        f"{result.usable / GIB:.1f} | {times} |"
    )


def scaling_table(results: dict[str, Result]) -> str:
    """Return the table of `dense_vit` on increasing numbers of devices, in Markdown."""
    lines = [
        "| devices | mesh | clips | GiB | GB sent, by axes | ms of kernels | ms of collectives | "
        "efficiency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    on_fewest: dict[str, float] = {}  # device -> clips per second and device, on the fewest devices
    for row in ROWS:
        if row.group != SCALING or row.key not in results:
            continue
        result = results[row.key]
        if result.step == 0.0:  # refused by the compiler
            lines.append(f"| {row.devices} x {row.card} | does not fit |" + " |" * 6)
            continue
        per_device = result.clips / row.devices / result.step
        efficiency = per_device / on_fewest.setdefault(row.device, per_device)
        sent = ", ".join(f"{axes} {size / 1e9:.2f}" for axes, size in result.sent.items()) or "-"
        mesh = " x ".join(str(size) for size in result.mesh.values())
        lines.append(
            f"| {row.devices} x {row.card} | {mesh} | {result.clips:,} | "
            f"{result.total / GIB:.1f} | {sent} | {1e3 * result.careful:,.0f} | "
            f"{1e3 * result.communication:,.0f} | {efficiency:.0%} |"
        )
    return "\n".join(lines)


def write_pages(results: dict[str, Result]) -> None:
    """Write the presets' lines and the tables."""
    for preset in {row.group for row in ROWS if row.is_of_preset}:
        path = ROOT / "signvit_jax" / "presets" / f"{preset}.py"
        line = hardware_line(preset, results)
        write_atomically(path, with_hardware(path.read_text(encoding="utf-8"), line))
    write_atomically(PAGE, plans_page(results))
    head, _, rest = SCALE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    write_atomically(SCALE, f"{head}{BEGIN}\n\n{scaling_table(results)}\n\n{END}{tail}")


def _pair(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="the rows of one preset or of another group")
    parser.add_argument(
        "--write", action="store_true", help="plan nothing; write from the known results"
    )
    arguments = parser.parse_args()
    results = read_results()
    chosen = []
    if not arguments.write:
        chosen = [row for row in ROWS if not arguments.only or row.group == arguments.only]
    with_others = [one for row in chosen for one in (row, *row.others)]
    rows = {one.key: one for one in with_others}  # without duplicates
    for row in rows.values():
        print(f"{row.key} ...", end=" ", flush=True)
        result = plan(row, results.get(row.key))
        if result is not None:
            results[row.key] = result
            values = {key: dataclasses.asdict(known) for key, known in sorted(results.items())}
            write_atomically(RESULTS, json.dumps(values, indent=1) + "\n")
        result = results[row.key]
        print(
            f"{result.total / GIB:.1f} of {result.usable / GIB:.1f} GiB, {1e3 * result.step:.0f} ms"
        )
    write_pages(results)
    complaints = [
        complaint for row in chosen if (complaint := too_large_or_slow(row, results)) is not None
    ]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return FAILED if complaints else DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
