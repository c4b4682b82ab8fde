"""Checks and warnings about the texts of a run, before anything is compiled."""

from types import SimpleNamespace

import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_mapping
from signvit_jax.data.dataset import DatasetError
from signvit_jax.data.keypoints import DRAWN, KeypointLayout
from signvit_jax.training.run_data import RunData

CHINESE = ["今天的天气很好。", "明天我去学校。", "我喜欢看电影。"]


class TextDataset:
    """A data set that has only texts and glosses. Reading a split that is None fails."""

    def __init__(self, splits, keypoint_layout=None):
        self.splits = splits
        self.keypoint_layout = keypoint_layout

    def split(self, name):
        if self.splits.get(name) is None:
            raise DatasetError(name)
        entries = [text if isinstance(text, tuple) else (text, "") for text in self.splits[name]]
        return SimpleNamespace(
            name=name,
            folder="data",
            index=[SimpleNamespace(text=text, gloss=gloss) for text, gloss in entries],
            keypoint_layout=self.keypoint_layout,
        )


def run_data(groups=None, keypoint_layout=None, **splits):
    """Return RunData; `groups`: groups of the config, `splits`: texts or (text, gloss) pairs."""
    return RunData(from_mapping(groups or {}), TextDataset(splits, keypoint_layout))


def test_a_metric_that_perfect_outputs_do_not_reach_is_refused():
    short_texts = {"train": ["hello"] * 3, "validation": ["hello", "good morning"]}
    message = (
        r"best_metric is 'bleu4'.*2 texts of 'validation'.* would have 0 .*"
        "allowed here: 'chrf', 'wer', 'loss'"
    )
    with pytest.raises(ConfigError, match=message):
        run_data({"training": {"best_metric": "bleu4"}}, **short_texts)
    for metric in ("chrf", "wer", "loss"):
        run_data({"training": {"best_metric": metric}}, **short_texts)


def test_bleu_is_allowed_where_perfect_outputs_reach_it():
    bleu = {"training": {"best_metric": "bleu4"}}
    run_data(bleu, train=["this is a sentence"], validation=["this is a sentence", "short"])
    run_data(bleu, train=CHINESE, validation=CHINESE)
    with pytest.raises(ConfigError, match="'bleu4'"):
        run_data(bleu | {"evaluation": {"tokenize": "13a"}}, train=CHINESE, validation=CHINESE)


def test_unknown_tokens_of_every_split_are_logged(caplog):
    run_data(train=["rain", "sun"], validation=["rain"], test=["zebra zoo"])
    (line,) = [message for message in caplog.messages if "vocabulary" in message]
    assert line.startswith("split 'test': 6 characters are not in the vocabulary")
    assert line.endswith("'z' (2), 'o' (2), 'e' (1), 'b' (1)")


def test_a_test_split_that_cannot_be_read_does_not_stop_training(caplog):
    run_data(train=["rain"], validation=["sun"], test=None)
    assert "split 'validation': 2 characters" in caplog.text


def test_unknown_glosses_are_logged_too(caplog):
    run_data(
        {"model": {"ctc": {"target": "gloss"}}},
        train=[("rain", "RAIN")],
        validation=[("rain", "RAIN SNOW")],
    )
    (line,) = [message for message in caplog.messages if "glosses" in message]
    assert line.startswith("split 'validation': 1 glosses are not in the vocabulary")
    assert line.endswith("'SNOW' (1)")


def test_crops_of_faces_need_keypoints_of_faces():
    texts = {"train": ["a b c d"], "validation": ["a b c d"]}
    crops = {"model": {"encoder": {"crops": "hands_face"}}}
    hands = KeypointLayout("hands", ("left_hand", "right_hand"))
    with_keypoints = crops | {"data": {"keypoints": "auto"}}
    for groups, layout, keypoints in (
        (crops, DRAWN, "no keypoints"),
        (with_keypoints, None, "no keypoints"),
        (with_keypoints, hands, "the keypoints of 'hands'"),
    ):
        message = f"'hands_face', but the batches have {keypoints}, .*"
        with pytest.raises(ConfigError, match=message):
            run_data(groups, layout, **texts)
    assert run_data(with_keypoints, DRAWN, **texts).keypoint_layout == DRAWN


def test_a_loss_on_keypoints_needs_keypoints():
    texts = {"train": ["a b c d"], "validation": ["a b c d"]}
    weight = {"training": {"keypoint_weight": 0.5}}
    with_keypoints = weight | {"data": {"keypoints": "auto"}}
    for groups, layout in ((weight, DRAWN), (with_keypoints, None)):
        with pytest.raises(ConfigError, match=r"keypoint_weight is 0\.5, but the batches have no"):
            run_data(groups, layout, **texts)
    assert run_data(with_keypoints, DRAWN, **texts).num_keypoints == len(DRAWN.points)
