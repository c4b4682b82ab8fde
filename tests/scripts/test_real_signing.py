"""Tests of the benchmark of real hands: where a bright hand is, and that no run is repeated."""

import json

import numpy as np
import pytest

from tests.helpers.scripts import load_script

real_signing = load_script("bench/real_signing")
PAGE = f"before\n{real_signing.BEGIN}\nold\n{real_signing.END}\nafter\n"


def test_a_bright_hand_is_the_upper_or_left_end_of_the_arm():
    upright = np.zeros((240, 320, 3), np.uint8)
    upright[60:220, 150:170] = 200
    upright[50:90, 140:180] = 200  # the hand
    upright[0, 0] = 255  # noise
    x, y, confidence = real_signing.bright_hand(upright)
    assert confidence == 1.0
    assert abs(x * 320 - 160) < 4 and 60 < y * 240 < 110
    horizontal = upright.transpose(1, 0, 2)[:240]
    x, y, _ = real_signing.bright_hand(horizontal)
    assert abs(y * 240 - 160) < 4 and 60 < x * horizontal.shape[1] < 110
    assert real_signing.bright_hand(np.zeros_like(upright)) == (0.0, 0.0, 0.0)


def result_line(name, seed, wer, overrides=()):
    """Return the JSON line of a finished run."""
    scores = {"wer": wer, "exact_match": 1 - wer}
    decoders = dict.fromkeys(real_signing.DECODERS, scores)
    line = {"set": name, "row": "hands", "seed": seed, "overrides": list(overrides), "minutes": 9.0}
    return json.dumps(line | decoders) + "\n"


@pytest.fixture
def page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (tmp_path / "real" / "digits").mkdir(parents=True)
    (tmp_path / "real" / "digits" / "clips.csv").write_text("uid,text\n")
    return page


def run_benchmark(page, *flags):
    return real_signing.main(
        [f"--folder={page.parent / 'real'}", f"--page={page}", "--rows=hands", *flags]
    )


def test_finished_runs_are_in_the_page_and_are_not_trained_again(page, monkeypatch):
    trained = []

    def train(*run):
        trained.append(run[:3])
        return True

    monkeypatch.setattr(real_signing, "_built", lambda *_: page.parent)
    monkeypatch.setattr(real_signing, "_train", train)
    lines = (
        result_line("digits", 0, 0.1)
        + result_line("digits", 1, 0.3)
        + result_line("digits", 2, 0.2, ["a=1"])
    )
    page.with_suffix(".jsonl").write_text(lines)
    assert run_benchmark(page, "--sets=digits", "--seeds=0,1,2") == 0
    assert trained == [("digits", "hands", 2)]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| digits | `hands` |  | 2 | 20.0 %, worst 30.0 % |" in text
    assert "80.0 %, worst 70.0 %" in text
    assert "| digits | `hands` | `a=1` | 1 | 20.0 % |" in text


def test_a_missing_set_is_skipped(page, capsys):
    assert run_benchmark(page, "--sets=slovak") == 0
    assert "slovak" in capsys.readouterr().err
    assert page.read_text() == PAGE
