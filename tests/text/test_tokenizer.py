"""Tests of tokenizers: round trips, special tokens, files, and scripts without spaces."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import TokenizerConfig
from signvit_jax.text.tokenizer import (
    Tokenizer,
    TokenizerError,
    learn,
    learn_gloss_vocabulary,
    load_bert_vocabulary,
    make_tokenizer,
)

TEXTS = (
    "Don't you know what it's worth?",
    "It's 5,000 rupees (approximately) -- isn't it?!",
    "मुझे पानी चाहिए।",
    "नमस्ते दुनिया, यह क्षत्रिय ज्ञान है।",
    "வணக்கம் உலகம்",
    "你好，世界",
    "مرحبا بالعالم",
    "naïve café Straße İstanbul",
)
BPE, WORD = TokenizerConfig(name="bpe"), TokenizerConfig(name="word")
BERT_PIECES = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(100)),
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "hello",
    "world",
    "un",
    "##aff",
    "##able",
    "play",
    "##ing",
    ",",
    ".",
    "'",
    "s",
    "it",
]


def reference_wordpiece(word: str, vocabulary: set[str]) -> list[str]:
    """Return the pieces of a word by the definition of WordPiece: the longest piece first.

    Pieces within a word have the prefix "##".
    """
    pieces = []
    start = 0
    while start < len(word):
        end = len(word)
        while end > start and ("##" if start else "") + word[start:end] not in vocabulary:
            end -= 1
        if end == start:
            return ["[UNK]"]
        pieces.append(("##" if start else "") + word[start:end])
        start = end
    return pieces


@pytest.fixture(scope="module")
def bert_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(BERT_PIECES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "config",
    [BPE, WORD, dataclasses.replace(BPE, lowercase=False), dataclasses.replace(BPE, vocab_size=8)],
    ids=["bpe", "word", "cased", "characters"],
)
def test_encoding_and_decoding_a_learned_text_gives_the_text(config, text):
    tokenizer = learn(TEXTS, config)
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.normalize(text)
    assert tokenizer.unk_id not in tokenizer.encode(text)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),  # no lone surrogates
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_bpe_decodes_any_text_that_it_learned_from(texts, lowercase):
    # "a": to learn from empty texts alone is an error.
    tokenizer = learn([*texts, "a"], dataclasses.replace(BPE, lowercase=lowercase))
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == tokenizer.normalize(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_only_unknown_characters_become_unk(text):
    tokenizer = learn(TEXTS, BPE)
    known = set("".join(map(tokenizer.normalize, TEXTS)))
    normalized = tokenizer.normalize(text)
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.unk_id) == sum(c not in known for c in normalized)
    known_part = "".join(c for c in normalized if c in known)
    assert tokenizer.decode(ids) == " ".join(known_part.split())


def test_in_a_large_vocabulary_every_word_is_one_token():
    tokenizer = learn(TEXTS, BPE)
    for word in ("worth", "rupees", "नमस्ते", "दुनिया", "உலகம்"):
        assert len(tokenizer.encode(word)) == 1


def test_a_small_vocabulary_splits_rare_words():
    texts = ["the cat"] * 50 + ["hippopotamus"]
    tokenizer = learn(texts, dataclasses.replace(BPE, vocab_size=30))
    assert tokenizer.vocab_size <= 30
    assert len(tokenizer.encode("the cat")) == 2
    assert len(tokenizer.encode("hippopotamus")) > 3


def test_words_below_the_minimum_frequency_are_not_learned():
    texts = ["common common", "rarely"]
    bpe = learn(texts, dataclasses.replace(BPE, min_frequency=2))
    assert len(bpe.encode("rarely")) > 1
    word = learn(texts, dataclasses.replace(WORD, min_frequency=2))
    assert word.encode("common rarely") == [word.tokens.index("common"), word.unk_id]


def test_learned_tokenizers_have_special_ids_0_to_3():
    for tokenizer in (learn(TEXTS, BPE), learn(TEXTS, WORD), learn_gloss_vocabulary(["A B"])):
        ids = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id]
        assert ids == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text", ["< pad >", "<pad> [PAD] < eos >", "[SEP] [CLS]", "\u2581 a\u2581b"]
)
def test_no_text_can_forge_a_special_token(text, bert_file):
    for tokenizer in (
        learn([*TEXTS, text], BPE),
        learn([*TEXTS, text], WORD),
        load_bert_vocabulary(bert_file, TokenizerConfig(name="bert")),
    ):
        special_ids = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
        assert not special_ids & set(tokenizer.encode(text))


def test_decode_stops_at_eos_and_drops_the_other_specials():
    tokenizer = learn(TEXTS, BPE)
    ids = tokenizer.encode("it's worth")
    bos, eos, pad = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    assert tokenizer.decode([bos, *ids, eos, *ids, pad, pad]) == "it's worth"
    assert tokenizer.decode([pad, tokenizer.unk_id]) == ""


def test_decode_refuses_an_id_outside_the_vocabulary():
    tokenizer = learn(TEXTS, BPE)
    with pytest.raises(
        ValueError, match=f"id {tokenizer.vocab_size} .* 0 to {tokenizer.vocab_size - 1}"
    ):
        tokenizer.decode([tokenizer.vocab_size])


def test_nfc_and_nfd_spellings_are_the_same_text():
    tokenizer = learn(TEXTS, BPE)
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")


def test_another_process_learns_the_same_tokenizer():
    code = (
        "import sys; from signvit_jax.config.schema import TokenizerConfig; "
        "from signvit_jax.text.tokenizer import learn; "
        f"sys.stdout.buffer.write(learn({TEXTS!r}, TokenizerConfig()).to_json().encode())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    ).stdout.decode()
    assert other == learn(TEXTS, BPE).to_json()


def test_every_tokenizer_is_the_same_after_writing_and_reading_json(bert_file):
    bert = load_bert_vocabulary(bert_file, TokenizerConfig(name="bert"))
    for tokenizer in (
        learn(TEXTS, BPE),
        learn(TEXTS, WORD),
        bert,
        learn_gloss_vocabulary(["A B", "B"]),
    ):
        reloaded = Tokenizer.from_json(tokenizer.to_json())
        assert reloaded == tokenizer and reloaded.tokens == tokenizer.tokens
        assert [reloaded.encode(t) for t in TEXTS] == [tokenizer.encode(t) for t in TEXTS]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "other", "version": 1, "kind": "bpe"}',
        '{"format": "signvit_jax tokenizer", "version": 99, "kind": "bpe"}',
    ],
)
def test_a_damaged_tokenizer_file_is_refused(content):
    with pytest.raises(TokenizerError, match="tokenizer"):
        Tokenizer.from_json(content)


def test_a_tokenizer_file_without_special_tokens_is_refused():
    content = learn(TEXTS, BPE).to_json().replace("< pad >", "< dap >")
    with pytest.raises(TokenizerError, match="special tokens"):
        Tokenizer.from_json(content)


@given(
    st.lists(
        st.sampled_from(["hello", "unaffable", "playing", "it", "world", "xyz", "unplay"]),
        min_size=1,
        max_size=6,
    )
)
def test_bert_takes_the_longest_piece_first(words):
    vocabulary = {piece: i for i, piece in enumerate(BERT_PIECES)}
    tokenizer = _bert_from_pieces()
    expected = [
        vocabulary[piece] for word in words for piece in reference_wordpiece(word, set(vocabulary))
    ]
    assert tokenizer.encode(" ".join(words).upper()) == expected


def _bert_from_pieces() -> Tokenizer:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(BERT_PIECES))
        file.flush()
        return load_bert_vocabulary(file.name, TokenizerConfig(name="bert"))


def test_bert_ids_are_those_of_the_file(bert_file):
    tokenizer = make_tokenizer(
        (),
        TokenizerConfig(name="bert", vocab_file=str(bert_file), pad_id=0, bos_id=101, eos_id=102),
    )
    assert [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id] == [0, 101, 102]
    assert tokenizer.vocab_size == len(BERT_PIECES)


def test_bert_decoding_joins_pieces_and_punctuation(bert_file):
    tokenizer = load_bert_vocabulary(bert_file, TokenizerConfig(name="bert"))
    ids = tokenizer.encode("Unaffable, it's playing.")
    decoded = tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id])
    assert decoded == "unaffable, it's playing."


def test_cased_bert_keeps_case(bert_file):
    tokenizer = load_bert_vocabulary(bert_file, TokenizerConfig(name="bert", lowercase=False))
    assert tokenizer.encode("Hello hello") == [tokenizer.unk_id, BERT_PIECES.index("hello")]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["[PAD]", "[CLS]", "[SEP]"], r"lacks \[UNK\]"),
        (["a", "[PAD]", "[CLS]", "[SEP]", "[UNK]"], r"\[PAD\] at id 1"),
        (["[PAD]", "[CLS]", "[SEP]", "[UNK]", "x", "x"], "'x' twice"),
    ],
)
def test_an_invalid_vocabulary_file_is_a_config_error(tmp_path, lines, fault):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=fault):
        load_bert_vocabulary(path, TokenizerConfig(name="bert"))


def test_a_missing_vocabulary_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer\.vocab_file.*missing\.txt"):
        load_bert_vocabulary(tmp_path / "missing.txt", TokenizerConfig(name="bert"))


@pytest.mark.parametrize(("key", "expected_id"), [("pad_id", 0), ("bos_id", 1), ("eos_id", 2)])
def test_special_ids_of_the_config_must_be_those_of_the_tokenizer(key, expected_id):
    learn(TEXTS, dataclasses.replace(BPE, **{key: expected_id}))  # no error
    with pytest.raises(
        ConfigError, match=rf"tokenizer\.{key} is 101, but the 'bpe' tokenizer has {expected_id}"
    ):
        learn(TEXTS, dataclasses.replace(BPE, **{key: 101}))


@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_no_text_to_learn_from_is_a_config_error(texts):
    with pytest.raises(ConfigError, match="there is no text"):
        learn(texts, BPE)


def test_glosses_keep_their_case_and_unknown_ones_are_unk():
    tokenizer = learn_gloss_vocabulary(["ICH HEUTE", "HEUTE loc-NORD"])
    assert tokenizer.decode(tokenizer.encode("loc-NORD  HEUTE")) == "loc-NORD HEUTE"
    assert tokenizer.encode("heute") == [tokenizer.unk_id]


def test_a_gloss_vocabulary_without_glosses_is_a_config_error():
    with pytest.raises(ConfigError, match=r"model\.ctc\.target"):
        learn_gloss_vocabulary(["", ""])


SUBJECTS = "我你他她"
TIMES = ("今天", "明天", "昨天", "早上", "晚上")
VERBS = ("去", "看", "想去", "不喜欢", "喜欢")
PLACES = ("学校", "医院", "北京", "商店", "公园")
CHINESE = [
    f"{subject}{time}{verb}{place}。"
    for subject in SUBJECTS
    for time in TIMES
    for verb in VERBS
    for place in PLACES
][:300]  # of 500
UNSPACED_TEXTS = {
    "Chinese": CHINESE,
    "Japanese": ["私はコーヒーを飲みます。", "今日は学校へ行きました", "コーヒー、飲む？"],
    "Thai": ["ที่นี่อากาศดี", "ฉันไปโรงเรียน พรุ่งนี้"],
    "mixed": ["我用iPhone 打电话给Anna，好吗？", "OK 好的 yes please", "3月14日去New York 学校"],
}


def test_chinese_is_learned_by_character_not_by_sentence():
    for tokenizer in (learn(CHINESE, BPE), learn(CHINESE, WORD)):
        num_tokens = sum(len(ids) for ids in tokenizer.encode_all(CHINESE))
        num_characters = sum(len(text) for text in CHINESE)
        assert num_tokens >= 0.8 * num_characters
        new_sentence = "学校想看你。"  # of known characters
        assert tokenizer.unk_id not in tokenizer.encode(new_sentence)


@pytest.mark.parametrize("script", UNSPACED_TEXTS)
@pytest.mark.parametrize("vocab_size", [8, 8000])
def test_text_without_spaces_is_decoded_without_spaces(script, vocab_size):
    texts = UNSPACED_TEXTS[script]
    tokenizer = learn(texts, dataclasses.replace(BPE, vocab_size=vocab_size))
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_all(texts)] == [
        tokenizer.normalize(text) for text in texts
    ]


def test_latin_words_in_chinese_text_are_still_words():
    texts = ["我用computer学习", "computer 很好"] * 20
    tokenizer = learn(texts, BPE)
    tokens = [tokenizer.tokens[i] for i in tokenizer.encode("用computer")]
    assert tokens[-2:] == ["用", "computer"]  # BPE marks the beginning of the text before them
    word = learn(texts, WORD)
    assert [word.tokens[i] for i in word.encode("用computer学")] == ["用", "computer", "学"]
    assert word.decode(word.encode("用computer学")) == "用computer学"


def test_chinese_texts_do_not_change_how_spaced_text_is_split():
    spaced = learn(["the cat sat", "the dog sat"], BPE)
    with_chinese = learn(["the cat sat", "the dog sat", "猫坐着"], BPE)
    tokens, tokens_with_chinese = (
        [tokenizer.tokens[i] for i in tokenizer.encode("the cat sat")]
        for tokenizer in (spaced, with_chinese)
    )
    assert tokens == tokens_with_chinese
    # The file is as in earlier releases: "Split" is the step that separates Chinese characters.
    assert "Split" not in spaced.to_json()


# A file of an earlier release, which did not yet split scripts without spaces by character. It was
# learned from "你好世界" and "世界你好".
OLD_BPE = (
    '{"format": "signvit_jax tokenizer", "version": 1, "kind": "bpe", "lowercase": true, '
    '"model": {"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], '
    '"normalizer": null, "pre_tokenizer": {"type": "Sequence", '
    '"pretokenizers": [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", '
    '"split": true}, {"type": "Punctuation", "behavior": "Isolated"}]}, "post_processor": null, '
    '"decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": "< unk >", '
    '"continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, '
    '"byte_fallback": false, "ignore_merges": false, "vocab": {"< pad >": 0, "< bos >": 1, '
    '"< eos >": 2, "< unk >": 3, "▁": 4, "世": 5, "你": 6, "好": 7, "界": 8, "▁世": 9, "▁你": 10, '
    '"▁你好": 11}, "merges": [["▁", "世"], ["▁", "你"], ["▁你", "好"]]}}}'
)


def test_a_file_of_an_earlier_release_tokenizes_as_before():
    tokenizer = Tokenizer.from_json(OLD_BPE)
    assert [tokenizer.tokens[i] for i in tokenizer.encode("你好世界")] == ["▁你好", "世", "界"]
    assert tokenizer.decode(tokenizer.encode("你好世界")) == "你好世界"


def test_chinese_glosses_are_split_at_spaces_only():
    tokenizer = learn_gloss_vocabulary(["今天 天气 好", "天气 坏"])
    assert len(tokenizer.encode("今天 天气 好")) == 3
    assert tokenizer.decode(tokenizer.encode("天气 好")) == "天气 好"
    assert tokenizer.pieces("天气 好") == [" 天气", " 好"]


def test_bert_puts_no_spaces_between_chinese_characters(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"我用很好。", "iphone", "ok"]),
        encoding="utf-8",
    )
    tokenizer = load_bert_vocabulary(path, TokenizerConfig(name="bert", vocab_file=str(path)))
    assert tokenizer.decode(tokenizer.encode("我用iPhone很好。ok ok")) == "我用iphone很好。ok ok"


def test_unknown_pieces_are_counted(bert_file):
    bpe = learn(["rain", "sun"], BPE)
    word = learn(["rain", "sun"], WORD)
    assert bpe.unknown(["Rain", "zebra zu", ""]) == {"z": 2, "e": 1, "b": 1}
    assert bpe.decode(bpe.encode("zebra")) == "ra"  # "zeb" is lost, so users must be told
    assert word.unknown(["Rain", "zebra sun zebra"]) == {"zebra": 2}
    assert learn(["今天"], BPE).unknown(["今年"]) == {"年": 1}
    bert = load_bert_vocabulary(bert_file, TokenizerConfig(name="bert"))
    assert bert.unknown(["Hello Zürich"]) == {"Zürich": 1}
