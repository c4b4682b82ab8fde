"""What a sweep searches: config keys with ranges or choices, checked before the first trial."""

import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import literal
from signvit_jax.config.legacy import current_key
from signvit_jax.config.schema import Config, from_mapping
from signvit_jax.config.typed_sections import build, flatten, unknown_key
from signvit_jax.files.local_paths import is_hub_address
from signvit_jax.runtime.exit_codes import UsageError

Value = int | float | str | bool
Parameters = Mapping[str, Value]

_FORMS = "a,b,c (choices), LOW:HIGH, LOW:HIGH:STEP, or log:LOW:HIGH"
_DIGITS = 4  # of a suggested number, so that it can be read and typed
MOST_CORNERS = 1024
# Keys that would make trials incomparable: seeds are repeated at the end.
_NOT_SEARCHED = {"training.seed": "the best trial is repeated with other seeds (--seeds)"}


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A config key and its values: `choices`, or numbers from `low` to `high`.

    `step`: of evenly spaced numbers; 0 = any. `log`: on a logarithmic scale.
    """

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    log: bool = False
    integer: bool = False

    @property
    def extremes(self) -> tuple[Value, ...]:
        """All choices, or the lowest and the highest number."""
        return self.choices or (self.rounded(self.low), self.rounded(self.high))

    def rounded(self, value: float) -> int | float:
        """A suggested number with a few digits, within the range."""
        if self.integer:
            return round(value)
        short = float(f"{value:.{_DIGITS}g}")
        return min(max(short, self.low), self.high)

    def __str__(self) -> str:
        if self.choices:
            return ",".join(map(str, self.choices))
        ends = f"{self.low:g}:{self.high:g}"
        return f"log:{ends}" if self.log else ends + (f":{self.step:g}" if self.step else "")


def dimension_of(key: str, spec: object, base: Config) -> Dimension:
    """Read the values of a key: a text as on the command line, or a list of choices.

    Raises UsageError for a text of another form, ConfigError for a key that does not exist.
    """
    key = current_key(key)
    flat = flatten(dataclasses.asdict(base))
    if key not in flat:
        group: Mapping[str, object] = dataclasses.asdict(base)
        raise unknown_key(key, spec, _names_beside(key, group), Config)
    if key in _NOT_SEARCHED:
        raise UsageError(f"{key} cannot be searched: {_NOT_SEARCHED[key]}")
    if isinstance(spec, list | tuple):
        return _choices(key, spec)
    text = str(spec)
    is_log = text.startswith("log:")
    parts = text.removeprefix("log:").split(":")
    if len(parts) == 1 and not is_log:
        is_text = isinstance(flat[key], str)
        return _choices(key, [part if is_text else literal(part) for part in text.split(",")])
    numbers = _range_numbers(parts, (2,) if is_log else (2, 3))
    if numbers is None:
        raise UsageError(f"--search.{key}={text}: allowed: {_FORMS}")
    low, high, step = (*numbers, 0.0)[:3]
    if low >= high or (is_log and low <= 0) or step < 0:
        raise UsageError(
            f"--search.{key}={text}: LOW must be below HIGH, STEP above 0, and LOW above 0 with log"
        )
    integer = isinstance(flat[key], int) and not isinstance(flat[key], bool)
    if integer and not all(number.is_integer() for number in (low, high, step)):
        raise UsageError(f"--search.{key}={text}: {key} takes integers")
    return Dimension(key, (), low, high, step, is_log, integer)


def _range_numbers(parts: Sequence[str], counts: Sequence[int]) -> list[float] | None:
    """The numbers of a range; None if one is not finite, or their count is not among `counts`."""
    numbers: list[float] = []
    for part in parts:
        value = literal(part)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        numbers.append(float(str(value)))  # inf for an integer that is too large
    return numbers if len(numbers) in counts and all(map(math.isfinite, numbers)) else None


def _choices(key: str, values: Sequence[object]) -> Dimension:
    scalars = tuple(value for value in values if isinstance(value, int | float | str | bool))
    if len(scalars) != len(values) or len(set(map(repr, scalars))) < 2:
        raise UsageError(
            f"--search.{key}={','.join(map(str, values))}: give two or more different choices, "
            "each a number, a text, True or False"
        )
    return Dimension(key, scalars)


def _names_beside(key: str, values: Mapping[str, object]) -> Mapping[str, object]:
    """The keys of the deepest group of `key` that exists."""
    for part in key.split(".")[:-1]:
        below = values.get(part)
        if not isinstance(below, Mapping):
            break
        values = below
    return values


def space_of_file(path: Path) -> dict[str, object]:
    """The space that a Python file defines: `get_space()` returns a dict of keys to values.

    Raises UsageError.
    """
    spec = importlib.util.spec_from_file_location("signvit_space_file", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"--space={path}: no such file, or its name does not end with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        space = module.get_space()
    except Exception as error:
        raise UsageError(
            f"{path} cannot be run as a space (a file that defines get_space()): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(space, Mapping) or not space:
        raise UsageError(f'get_space() of {path} must return a dict such as {{"KEY": "log:1:9"}}')
    return {str(key): value for key, value in space.items()}


def with_values(base: Config, parameters: Parameters) -> Config:
    """The config with other values. Raises ConfigError for those that may not be combined."""
    return from_mapping(_nested(base, parameters))


def with_absolute_paths[Section](section: Section) -> Section:
    """The config with absolute paths, for workers in other folders; hub addresses stay."""
    assert dataclasses.is_dataclass(section) and not isinstance(section, type)
    values: dict[str, object] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = with_absolute_paths(value)
        elif field.metadata.get("is_path") and value and not is_hub_address(value):
            values[field.name] = str(Path(value).expanduser().absolute())
    return dataclasses.replace(section, **values)


def _nested(base: Config, parameters: Parameters) -> dict[str, object]:
    values: dict[str, object] = dataclasses.asdict(base)
    for key, value in parameters.items():
        *groups, name = key.split(".")
        node = values
        for group in groups:
            below = node[group]
            assert isinstance(below, dict)  # the key was found in the config
            node = below
        node[name] = value
    return values


def check_space(base: Config, space: Sequence[Dimension]) -> tuple[int, int, str]:
    """Check every extreme value of every key, and every corner of the space.

    Returns (corners that were tried, those that are refused as a combination, the reason of one).
    Trials with such combinations will be recorded as invalid. Raises ConfigError for a value that a
    key never takes, UsageError if no corner can be trained.
    """
    for dimension in space:
        for value in dimension.extremes:
            build(Config, _nested(base, {dimension.key: value}), Config)
    corners = list(itertools.islice(_corners(space), MOST_CORNERS))
    refused, reason = 0, ""
    for corner in corners:
        try:
            with_values(base, corner)
        except ConfigError as error:
            refused += 1
            reason = reason or str(error)
    if refused == len(corners):
        raise UsageError(f"no corner of the space is a config that can be trained: {reason}")
    return len(corners), refused, reason


def _corners(space: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    for values in itertools.product(*(dimension.extremes for dimension in space)):
        yield {dimension.key: value for dimension, value in zip(space, values)}


def grid(space: Sequence[Dimension]) -> list[dict[str, Value]]:
    """Every combination of choices and stepped numbers.

    Raises UsageError for a range without steps.
    """
    axes: list[list[Value]] = []
    for dimension in space:
        if not dimension.choices and not dimension.step and not dimension.integer:
            raise UsageError(
                f"--sampler=grid needs choices or steps: --search.{dimension.key}="
                f"{dimension} has any number of values"
            )
        step = dimension.step or 1.0
        count = math.floor((dimension.high - dimension.low) / step + 1e-9) + 1
        numbers = [dimension.rounded(dimension.low + i * step) for i in range(count)]
        axes.append(list(dimension.choices) or list(numbers))
    keys = [dimension.key for dimension in space]
    return [dict(zip(keys, values)) for values in itertools.product(*axes)]
