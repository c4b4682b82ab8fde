"""Tests of splitting a text into words with confidences."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.config.schema import TokenizerConfig
from signvit_jax.text.tokenizer import Tokenizer, learn, load_bert_vocabulary
from signvit_jax.text.words import Word, word_confidences, words_text

TEXTS = ["mother sleeps.", "don't wake mother!", "the sleeper dreams"]


@pytest.fixture(scope="module", params=["bpe", "word", "bert"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    if request.param == "bert":
        pieces = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "mother",
            "sleep",
            "##s",
            "##er",
            ".",
            "!",
            "'",
            "don",
            "t",
            "wake",
            "the",
            "dream",
        ]
        path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
        path.write_text("\n".join(pieces) + "\n")
        return load_bert_vocabulary(path, TokenizerConfig(name="bert", vocab_file=str(path)))
    return learn(TEXTS, TokenizerConfig(name=request.param, vocab_size=40))


@pytest.mark.parametrize("text", TEXTS)
def test_a_words_confidence_is_the_mean_of_its_tokens(tokenizer, text):
    tokens = tokenizer.encode(text)
    words = text.split()
    confidences = [0.1 * (1 + place) for place in range(len(tokens))]
    found = word_confidences(
        [tokenizer.bos_id, *tokens, tokenizer.eos_id], [0.0, *confidences, 0.9], tokenizer.decode
    )
    assert [word.text for word in found] == words
    # The tokens of a text are the tokens of its words, one word after another.
    start = 0
    for word, (_, confidence, _) in zip(words, found):
        end = start + len(tokenizer.encode(word))
        # A rare word begins with a separate token that marks the start and has no text.
        text_confidences = [
            token_confidence
            for token, token_confidence in zip(tokens[start:end], confidences[start:end])
            if tokenizer.decode([token])
        ]
        assert confidence == pytest.approx(sum(text_confidences) / len(text_confidences))
        start = end
    assert start == len(tokens)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_tokens_give_the_words_of_their_text(tokenizer, data):
    tokens = data.draw(st.lists(st.integers(1, tokenizer.vocab_size - 1), max_size=12))
    confidences = data.draw(st.lists(st.floats(0, 1), min_size=len(tokens), max_size=len(tokens)))
    found = word_confidences(tokens, confidences, tokenizer.decode)
    assert [word.text for word in found] == tokenizer.decode(tokens).split()
    assert all(0.0 <= word.confidence <= 1.0 for word in found)


def test_without_tokens_there_are_no_words(tokenizer):
    assert word_confidences([], [], tokenizer.decode) == ()
    assert (
        word_confidences([tokenizer.bos_id, tokenizer.eos_id], [0.0, 0.9], tokenizer.decode) == ()
    )


def test_words_of_a_script_without_spaces_are_characters():
    token_texts = {1: "我", 2: "用", 3: " iPhone", 4: "好"}
    found = word_confidences(
        [1, 2, 3, 4],
        [0.1, 0.2, 0.3, 0.4],
        lambda tokens: "".join(token_texts[token] for token in tokens).strip(),
    )
    assert found == (
        Word("我", 0.1, False),
        Word("用", 0.2, False),
        Word("iPhone", 0.3, True),
        Word("好", 0.4, False),
    )
    assert words_text(found) == "我用 iPhone好"


def test_words_of_two_windows_get_spaces_by_their_script():
    assert words_text([Word("今", 1.0, False), Word("天", 1.0, False)]) == "今天"
    assert words_text([Word("good", 1.0), Word("luck", 1.0)]) == "good luck"
