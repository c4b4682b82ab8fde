"""What a run checks and says of its texts before anything is compiled."""

from types import SimpleNamespace

import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_mapping
from signvit_jax.data.dataset import DatasetError
from signvit_jax.training import run_data
from signvit_jax.training.run_data import RunData

CHINESE = ["今天的天气很好。", "明天我去学校。", "我喜欢看电影。"]


class Clips:
    """A data set of texts alone; a split that is None cannot be read."""

    def __init__(self, splits):
        self.splits = splits

    def split(self, name):
        if self.splits.get(name) is None:
            raise DatasetError(name)
        entries = [text if isinstance(text, tuple) else (text, "") for text in self.splits[name]]
        return SimpleNamespace(
            name=name, index=[SimpleNamespace(text=text, gloss=gloss) for text, gloss in entries]
        )


@pytest.fixture
def data_of(monkeypatch):
    def made(groups=None, **splits):
        monkeypatch.setattr(run_data, "open_dataset", lambda *_: Clips(splits))
        return RunData(from_mapping(groups or {}))

    return made


def test_a_metric_that_perfect_outputs_would_not_reach_is_refused_at_the_start(data_of):
    words = {"train": ["hello"] * 3, "validation": ["hello", "good morning"]}
    with pytest.raises(
        ConfigError,
        match=r"best_metric is 'bleu4'.*2 texts of 'validation'.* would have 0 .*allowed here: 'chrf', 'wer', 'loss'",
    ):
        data_of({"training": {"best_metric": "bleu4"}}, **words)
    for metric in ("chrf", "wer", "loss"):
        data_of({"training": {"best_metric": metric}}, **words)


def test_bleu_is_allowed_where_perfect_outputs_reach_it_and_of_chinese_by_character(data_of):
    wanted = {"training": {"best_metric": "bleu4"}}
    data_of(wanted, train=["this is a sentence"], validation=["this is a sentence", "short"])
    data_of(wanted, train=CHINESE, validation=CHINESE)
    with pytest.raises(ConfigError, match="'bleu4'"):
        data_of(wanted | {"evaluation": {"tokenize": "13a"}}, train=CHINESE, validation=CHINESE)


def test_what_the_vocabulary_lacks_is_said_of_every_split(data_of, caplog):
    data_of(train=["rain", "sun"], validation=["rain"], test=["zebra zoo"])
    (line,) = [message for message in caplog.messages if "vocabulary" in message]
    assert (
        line
        == "split 'test': 6 characters are not in the vocabulary, so no output can contain them: 'z' (2), 'o' (2), 'e' (1), 'b' (1)"
    )


def test_a_test_split_that_cannot_be_read_is_no_reason_not_to_train(data_of, caplog):
    data_of(train=["rain"], validation=["sun"], test=None)
    assert "split 'validation': 2 characters" in caplog.text


def test_glosses_that_training_lacks_are_said_too(data_of, caplog):
    data_of(
        {"model": {"ctc": {"target": "auto"}}},
        train=[("rain", "RAIN")],
        validation=[("rain", "RAIN SNOW")],
    )
    assert (
        "split 'validation': 1 glosses are not in the vocabulary, so no output can contain them: 'SNOW' (1)"
        in caplog.text
    )
