"""Tests of options of builders: allowed values, and their defaults in the output of --help."""

import pytest

from tfds_builders.options import FRAME_RATES, Option, Range, column_options


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(2, 5), [2, 5], [1, 6, 3.0, True, "3", None]),
        (Range(0, 1, integer=False), [0, 0.5, 1], [-0.1, 1.1, float("nan"), float("inf")]),
        (FRAME_RATES, [0.1, 1000], [0, -1, 1000.1, float("nan")]),
    ],
)
def test_a_range_contains_its_ends_unless_they_are_excluded(allowed, inside, outside):
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (256.0, "size (256)"),
        (0.1, "size (0.1)"),
        (0, "size (0)"),
        ("a", "size (a)"),
        (None, "size"),
    ],
)
def test_the_help_ends_with_the_default(default, shown):
    assert Option("size", "size", default).help_with_default == shown


def test_the_help_of_a_column_names_the_column():
    (option,) = column_options(["start"])
    assert option.name == "start_column"
    assert option.help_with_default == "name of the table's column of start values (start)"
