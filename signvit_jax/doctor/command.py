"""Look for what is wrong with this machine and its set-up, say why, and what to do.

Sixteen checks: Python, this package, its dependencies, JAX and its devices, accelerators that JAX
does not use and why, fused attention, video codecs, limits, memory, folders, a workdir, a data set,
a config, several hosts, optional packages, the network. Each may take 20 seconds, and none can take
the others down. Nothing is changed: files written for a check are deleted again. Nothing is sent.

--workdir, --data_dir and --config say what else to look at; a workdir brings its config, and a
config its data folder. --json is for bug reports: the home folder is written as ~.
Exit codes: 0 nothing is bad, 1 something is, 2 wrong usage.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from signvit_jax import __version__
from signvit_jax.cli.config_flags import parse_with_optional_config
from signvit_jax.config.schema import Config, to_json
from signvit_jax.doctor.findings import Finding, Level, Request, without_home
from signvit_jax.doctor.registry import CHECKS, SECONDS, run_checks
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import parser, positive
from signvit_jax.runtime.exit_codes import DONE, FAILED
from signvit_jax.runtime.standard_streams import clean, clean_json

_COLORS: dict[Level, str] = {"ok": "green", "note": "yellow", "bad": "bold red", "skipped": "dim"}
# Characters of a line. A terminal narrower than the second gets one value per line, not a table.
_MAX_LINE_WIDTH, _MIN_TABLE_WIDTH = 100, 60


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, print them, and return the exit code."""
    flags = parser(__doc__, "signvit doctor --workdir=runs/mine")
    flags.add_argument("--workdir", type=local_path, help="also look at a run, and at its config")
    flags.add_argument("--data_dir", type=local_path, help="also look at the data sets there")
    flags.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    flags.add_argument(
        "--quick",
        action="store_true",
        help="leave out what starts JAX, decodes videos or reads a data set: below a second",
    )
    flags.add_argument(
        "--seconds",
        type=positive("seconds"),
        default=SECONDS,
        help=f"time limit of each check ({SECONDS:g})",
    )
    arguments, config = parse_with_optional_config(flags, argv)
    config = config or _config_of(arguments.workdir)
    request = Request(
        workdir=str(arguments.workdir or ""),
        data_dir=str(arguments.data_dir or _data_dir_of(config, arguments.workdir)),
        config_json=to_json(config) if config else "",
        quick=arguments.quick,
    )
    show = _Progress(silent=arguments.json)
    findings, facts = [], {}
    for finding, found in run_checks(request, arguments.seconds):
        show.done(finding.name)
        findings.append(_without_home(finding))
        facts[finding.name] = found
    show.end()
    if arguments.json:
        print(clean_json(as_json(findings, facts), sys.stdout.encoding))
    else:
        _print(findings)
    return FAILED if any(finding.level == "bad" for finding in findings) else DONE


def _config_of(workdir: Path | None) -> Config | None:
    """The config of a workdir; None if it has none, which its own check reports."""
    from signvit_jax.config.schema import from_json
    from signvit_jax.errors.base import SignVitError

    if workdir is None:
        return None
    try:
        return from_json((workdir / "config.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SignVitError):
        return None


def _data_dir_of(config: Config | None, workdir: Path | None) -> str:
    """The data folder of a config; "" if a preset names one that nobody has made yet."""
    if config is None:
        return ""
    folder = Path(config.data.data_dir).expanduser()
    return str(folder) if workdir or folder.is_dir() else ""


def _without_home(finding: Finding) -> Finding:
    return dataclasses.replace(
        finding, found=without_home(finding.found), advice=without_home(finding.advice)
    )


def as_json(findings: Sequence[Finding], facts: dict[str, object]) -> str:
    """The findings and the facts behind them as JSON, without the home folder."""
    content = {
        "signvit": __version__,
        "ok": not any(finding.level == "bad" for finding in findings),
        "checks": [
            dataclasses.asdict(finding) | {"facts": _plain(facts.get(finding.name))}
            for finding in findings
        ],
    }
    return without_home(json.dumps(content, indent=1, ensure_ascii=False))


def _plain(facts: object) -> object:
    if dataclasses.is_dataclass(facts) and not isinstance(facts, type):
        return dataclasses.asdict(facts)
    return None


class _Progress:
    """The name of the check that is running, shown on a terminal."""

    def __init__(self, *, silent: bool):
        self._stream = None if silent or not sys.stderr.isatty() else sys.stderr
        self._waiting = [check.name for check in CHECKS]
        self._show()

    def done(self, name: str) -> None:
        self._waiting.remove(name)
        self._show()

    def end(self) -> None:
        if self._stream:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _show(self) -> None:
        if self._stream and self._waiting:
            print(f"\r\x1b[Kchecking {self._waiting[0]} ...", end="", file=self._stream, flush=True)


def _print(findings: Sequence[Finding]) -> None:
    """Print a line or more for each check, what to do below what was found, and the counts."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from signvit_jax.runtime.terminal import print_table

    table = Table.grid("level", "check", "found", padding=(0, 2, 0, 0))
    for finding in findings:
        found = Text(clean(finding.found))
        if finding.advice and finding.level in ("bad", "note"):
            found.append(f"\n-> {clean(finding.advice)}", style=_COLORS[finding.level])
        table.add_row(Text(finding.level, style=_COLORS[finding.level]), finding.name, found)
    console = Console()
    width = min(console.width, _MAX_LINE_WIDTH) if console.is_terminal else _MAX_LINE_WIDTH
    if width < _MIN_TABLE_WIDTH:
        print_table(table, console)
    else:
        Console(width=width, highlight=False).print(table)
    counts = {level: sum(f.level == level for f in findings) for level in _COLORS}
    print("\n" + ", ".join(f"{count} {level}" for level, count in counts.items() if count))
