"""Mutation testing of the code that keeps a run from losing work.

A mutant is a small change of that code. It survives if no test fails.

    python scripts/mutate.py --results=mutants.jsonl             # resumes where a call ended
    python scripts/mutate.py --results=mutants.jsonl --again     # tries the survivors again
    python scripts/mutate.py --results=mutants.jsonl --files=signals.py --lines=50:80

The script works on copies of the repository in a temporary folder. First all tests run once, and it
records which tests reach each line. Then each mutant is tried with the tests that reach its lines,
the quickest first, in a process forked from one that has imported the libraries. The order of the
mutants is random but always the same, so that a call that ends early (--minutes) has tried a fair
sample.

Exit codes: 0 no mutant survived, 1 some survived, and are listed.
"""

import argparse
import collections
import ctypes
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from mutants import Mutant, all_mutants

ROOT = Path(__file__).resolve().parent.parent
# The files to change, and for each the tests that must notice a change. These are quick: they start
# few processes and train little.
TESTS = {
    "checkpoints/manifest.py": [
        "files/test_atomic.py",
        "checkpoints/test_store.py",
        "reliability/test_untrusted_files.py",
    ],
    "checkpoints/reader.py": ["checkpoints/test_store.py"],
    "checkpoints/save_failures.py": ["checkpoints/test_store.py"],
    "checkpoints/store.py": ["checkpoints/test_store.py"],
    "checkpoints/resume_rules.py": ["checkpoints/test_resume_rules.py"],
    "checkpoints/workdir.py": ["checkpoints/test_workdir.py", "files/test_local_paths.py"],
    "checkpoints/workdir_lock.py": ["checkpoints/test_workdir_lock.py"],
    "data/epoch_plan.py": ["data/test_epoch_plan.py"],
    "files/atomic.py": ["files/test_atomic.py"],
    "runtime/consensus.py": ["runtime/test_consensus.py"],
    "runtime/signals.py": ["runtime/test_signals.py"],
    "telemetry/events_file.py": ["telemetry/test_observers.py", "telemetry/test_metric_writer.py"],
    "telemetry/metric_writer.py": [
        "telemetry/test_observers.py",
        "telemetry/test_metric_writer.py",
        "reliability/test_untrusted_files.py",
    ],
    "telemetry/observers.py": ["telemetry/test_observers.py"],
    "training/origin.py": ["training/test_origin.py", "training/test_distillation.py"],
    "training/resolve_config.py": [
        "training/test_resolve_config.py",
        "training/test_run.py",
        "end_to_end/test_wrong_usage.py",
    ],
    "training/run.py": [
        "training/test_run.py",
        "training/test_origin.py",
        "checkpoints/test_workdir_lock.py",
        "checkpoints/test_data_folder.py",
        "end_to_end/test_wrong_usage.py",
    ],
}
TESTS = {f"signvit_jax/{file}": tests for file, tests in TESTS.items()}
FILES = list(TESTS)
RESULT_KEYS = ("id", "file", "line", "kind", "change")  # of a Mutant, in the file of --results
_PASSED = 77  # exit code of tests that passed; not 0, because a mutant may exit with 0
# The tests that search all source files for calls that unpickle; they reach no line of FILES.
SKIPPED = "not test_no_source_unpickles and not test_the_search_finds"


class LineRecorder:
    """A pytest plugin that records the lines of FILES that each test reaches, and its time."""

    def __init__(self, root: Path):
        self.lines: dict[str, dict[str, list[str]]] = {
            name: collections.defaultdict(list) for name in FILES
        }
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.starting: set[str] = set()  # tests that start processes, whose lines are not recorded
        self._names = {str(root / name): name for name in FILES}
        self._test = ""
        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.COVERAGE_ID, "mutate")
        monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, self._line)
        monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)

        sys.addaudithook(self._on_audit)

    def _on_audit(self, event: str, _: tuple) -> None:
        if event in ("subprocess.Popen", "os.fork") and self._test:
            self.starting.add(self._test)

    def _line(self, code, line: int) -> object:
        name = self._names.get(code.co_filename)
        if name and self._test and self._test not in self.lines[name][str(line)]:
            self.lines[name][str(line)].append(self._test)
        return sys.monitoring.DISABLE  # report this line only once per test

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid
        sys.monitoring.restart_events()

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] += report.duration if report.when == "call" else 0.0


def tests_for(mutant: Mutant, reached: dict) -> list[str]:
    """Return the tests that reach the mutant's lines or start processes, the quickest first.

    Return all tests of the file for lines that no test reaches, since they run only on import.
    """
    lines = reached["lines"][mutant.file]
    reaching = {
        test for number in range(mutant.line, mutant.end + 1) for test in lines.get(str(number), ())
    }
    if not reaching or mutant.kind.startswith("without"):
        candidates = set(reached["seconds"])
    else:
        candidates = reaching | set(reached["starting"])
    of_file = tuple(f"tests/{name}::" for name in TESTS[mutant.file])
    return sorted(
        (test for test in candidates if test.startswith(of_file)),
        key=lambda test: (reached["seconds"].get(test, 0.0), test),
    )


class Worker:
    """A copy of the repository, and a process in it that forks for each mutant.

    The process has imported the libraries already. Requests and answers are lines of JSON; see
    `serve`.
    """

    def __init__(self, folder: Path, number: int):
        self.root = folder / f"copy{number}"
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "__pycache__", ".jax_cache", "runs", "data_sets", "*.pyc", "shared"
        )
        shutil.copytree(ROOT, self.root, ignore=ignored, symlinks=True)
        base = folder / "shared" / f"gw{number}"
        base.parent.mkdir(exist_ok=True)
        # The process looks like a worker of pytest-xdist, so that all of them share one run of the
        # fixture `trained`.
        variables = {
            "PYTHONPATH": str(self.root),
            "PYTEST_XDIST_WORKER": f"gw{number}",
            "MUTATE_BASE": str(base),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "jax_cache"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # For speed:
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.log = (folder / f"log{number}").open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(self.root / "scripts" / "mutate.py"), "--serve"],
            cwd=self.root,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # by PIPE
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.mutant: Mutant | None = None  # the one that is being tried

    def ask(self, request: dict) -> None:
        """Request a run of tests; `answer` waits for its result."""
        self.requests.write(json.dumps(request) + "\n")
        self.requests.flush()

    def answer(self) -> dict:
        line = self.replies.readline()
        if not line:
            raise SystemExit(f"error: a worker ended; see {self.log.name}")
        return json.loads(line)

    def start(self, mutant: Mutant, tests: list[str], limit: float, test_limit: float) -> None:
        """Try a mutant with tests, within `limit` seconds for all and `test_limit` for each."""
        self.mutant = mutant
        (self.root / mutant.file).write_bytes(mutant.content)
        self.ask({"tests": tests, "limit": limit, "test_limit": test_limit})

    def result(self) -> tuple[Mutant, str]:
        """Wait for the tests of the mutant; return it and the outcome."""
        answer, mutant = self.answer(), self.mutant
        assert mutant is not None
        (self.root / mutant.file).write_bytes(mutant.original)
        self.mutant = None
        return mutant, answer["outcome"]


def serve() -> None:
    """Run a worker's process: read a line with tests to run, print a line with their result."""
    import flax
    import grain
    import hypothesis
    import jax
    import optax
    import orbax.checkpoint
    import pytest
    import tensorflow_datasets  # noqa: F401 (imported once, before the forks)

    del flax, grain, hypothesis, jax, optax, orbax, pytest
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER, for `_end_orphans`
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run_tests(request)
        end, code = time.monotonic() + request["limit"], None
        while code is None and time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        _end_orphans()
        outcome = {None: "timeout", _PASSED: "survived"}.get(code, "killed")
        print(json.dumps({"code": code, "outcome": outcome}), flush=True)


def _run_tests(request: dict) -> NoReturn:
    """Run the tests of a request in this process, a child of the worker's, and exit.

    A request with a path `out` is a run without a mutant: the lines that each test reaches are
    written there.
    """
    import pytest

    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its worker
    os.dup2(2, 1)  # the worker's answers use the standard output
    recorder = LineRecorder(Path.cwd()) if request.get("out") else None
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={os.environ['MUTATE_BASE']}"]
    # Libraries that pytest would rewrite have been imported.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if recorder is not None:
        options += ["-m", "not long", "-k", SKIPPED]
    else:
        options += ["-x", f"--timeout={request['test_limit']}"]
    plugins = [] if recorder is None else [recorder]
    code = pytest.main([*options, *request["tests"]], plugins=plugins)
    if recorder is not None:
        content = {
            "lines": recorder.lines,
            "seconds": recorder.seconds,
            "starting": list(recorder.starting),
        }
        Path(request["out"]).write_text(json.dumps(content))
    sys.stderr.flush()
    os._exit(_PASSED if code == 0 else 1)


def _end_orphans() -> None:
    """End the processes that tests left behind; as a subreaper, this process is now their parent.

    A mutant may keep them from ending by themselves.
    """
    while orphans := _children():
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)


def _children() -> list[int]:
    """Return the ids of this process's children."""
    ids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (process / "stat").read_text().rpartition(") ")[2]
        except OSError:  # it has ended
            continue
        if int(after_name.split()[1]) == os.getpid():  # its parent
            ids.append(int(process.name))
    return ids


def try_all(
    arguments: argparse.Namespace, folder: Path, workers: list[Worker]
) -> list[dict | None]:
    """Try the mutants without a result, and append each result to the file of --results.

    Fills `workers` with the processes that it starts. Returns a result, or None, for each mutant.
    """
    endings = tuple(arguments.files.split(","))  # ("",) without --files: all names end with ""
    mutants = all_mutants(ROOT, [file for file in FILES if file.endswith(endings)], arguments.lines)
    results: dict[str, dict] = {}  # id of a mutant -> its entry in the file of --results
    if arguments.results.exists():
        for line in arguments.results.read_text().splitlines():
            entry = json.loads(line)
            results[entry["id"]] = entry
    finished = set(results)
    if arguments.again:
        finished = {key for key, entry in results.items() if entry["outcome"] != "survived"}
    due = [mutant for mutant in mutants if mutant.id not in finished][: arguments.count or None]
    end = time.monotonic() + 60 * arguments.minutes
    workers.extend(Worker(folder, number) for number in range(arguments.workers if due else 0))
    reached: dict = {}
    if due:
        tests = sorted({f"tests/{name}" for mutant in due for name in TESTS[mutant.file]})
        reached = _reached(workers[0], tests, arguments.results.with_suffix(".reached.json"))
        seconds = sum(reached["seconds"].values())
        print(
            f"{len(mutants)} mutants, {len(due)} to try; "
            f"{len(reached['seconds'])} tests take {seconds:.0f} s",
            flush=True,
        )
    queue, tried = iter(due), 0
    with arguments.results.open("a") as file:
        while True:
            for worker in workers:
                if (
                    worker.mutant is None
                    and time.monotonic() < end
                    and (mutant := next(queue, None)) is not None
                ):
                    tests = tests_for(mutant, reached)
                    seconds = [reached["seconds"].get(test, 0.0) for test in tests]
                    worker.start(
                        mutant, tests, 60 + 5 * sum(seconds), 30 + 4 * max(seconds, default=0.0)
                    )
            busy = [worker for worker in workers if worker.mutant is not None]
            if not busy:
                break
            for stream in select.select([worker.replies for worker in busy], [], [])[0]:
                worker = next(worker for worker in busy if worker.replies is stream)
                mutant, outcome = worker.result()
                entry = {key: getattr(mutant, key) for key in RESULT_KEYS} | {"outcome": outcome}
                results[mutant.id] = entry
                file.write(json.dumps(entry) + "\n")
                file.flush()
                tried += 1
                print(
                    f"{tried}/{len(due)} {entry['outcome']:8} "
                    f"{entry['file']}:{entry['line']} {entry['change']}",
                    flush=True,
                )
    return [results.get(mutant.id) for mutant in mutants]


def _reached(worker: Worker, tests: list[str], cache: Path) -> dict:
    """Return the tests that reach each line; those of an earlier call if the files are the same."""
    files = [*FILES, *tests]
    key = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in files)).hexdigest()
    if cache.exists() and (reached := json.loads(cache.read_text()))["key"] == key:
        return reached
    out = worker.root / "reached.json"
    worker.ask({"tests": tests, "limit": 3600, "out": str(out)})
    if (code := worker.answer()["code"]) != _PASSED:
        raise SystemExit(
            f"error: the tests fail without any mutant (exit code {code}):\n"
            f"{Path(worker.log.name).read_text()[-4000:]}"
        )
    reached = json.loads(out.read_text()) | {"key": key}
    cache.write_text(json.dumps(reached))
    return reached


def print_report(results: list[dict | None]) -> int:
    """Print a table by file and the survivors; return the exit code."""
    tried = [entry for entry in results if entry]
    print("\n| file | mutants tried | killed | survivors |\n|---|---|---|---|")
    for name in FILES:
        of_file = [entry for entry in tried if entry["file"] == name]
        survived = sum(entry["outcome"] == "survived" for entry in of_file)
        if of_file:
            killed = len(of_file) - survived
            print(f"| `{Path(name).name}` | {len(of_file)} | {killed} | {survived} |")
    survivors = sorted(
        (entry for entry in tried if entry["outcome"] == "survived"),
        key=lambda entry: (entry["file"], entry["line"]),
    )
    killed = len(tried) - len(survivors)
    print(
        f"\n{len(tried)} of {len(results)} mutants tried, {killed} killed, "
        f"{len(survivors)} survived"
    )
    for entry in survivors:
        print(f"{entry['file']}:{entry['line']}: {entry['change']}")
    return 1 if survivors else 0


def _lines(text: str) -> range:
    first, end = text.split(":")
    return range(int(first), int(end))


def main() -> int:
    if sys.argv[1:] == ["--serve"]:
        serve()
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        help="JSON lines, one per mutant; mutants in it are not tried again",
    )
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="start no mutant after this time"
    )
    parser.add_argument("--count", type=int, default=0, help="try at most this many; 0 = all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--files", default="", help="ends of file names, separated by commas")
    parser.add_argument(
        "--lines", type=_lines, default=range(10**9), metavar="FIRST:END", help="these lines only"
    )
    parser.add_argument("--again", action="store_true", help="try survivors again")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder, workers = Path(tempfile.mkdtemp(prefix="mutate_")), []
    try:
        return print_report(try_all(arguments, folder, workers))
    finally:
        for worker in workers:
            worker.process.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
