"""Text to token ids and back: BPE or words learned from the training text, or a BERT vocabulary.

PAD, the CTC blank, always has id 0. Learned tokenizers read NFC text with runs of white space
collapsed; their ids are PAD 0, BOS 1, EOS 2, UNK 3. For BPE `decode(encode(text)) ==
normalize(text)` unless the text has characters that the training text lacks.

Where the training text has a script without spaces (`writing_systems.py`), its characters become
tokens, never its sentences. "word" then loses the spaces beside such characters, as BERT does
beside Han.
"""

import dataclasses
import functools
import json
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import TokenizerConfig
from signvit_jax.errors.base import SignVitError
from signvit_jax.text import writing_systems

_FORMAT = "signvit_jax tokenizer"
_VERSION = 1
_LISTED_PIECES = 8  # pieces that a note on unknown ones lists
_WORD_START = "\u2581"
# Names with a space: no word of a text can equal them, so no text can forge a special token.
_LEARNED_SPECIALS = ("< pad >", "< bos >", "< eos >", "< unk >")
_BERT_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
# Spaces that BERT's splitting inserts: before . ? ! , and around an apostrophe within a word.
_BERT_SPACES = re.compile(r" ([.?!,])|(?<=\w) (') (?=\w)")


class TokenizerError(SignVitError, ValueError):
    """A tokenizer file that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """`kind` is "bpe", "word" or "bert"; `model` is JSON of the `tokenizers` library."""

    kind: str
    lowercase: bool
    model: str

    @functools.cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.model)

    @functools.cached_property
    def _specials(self) -> tuple[int, ...]:
        """Ids of PAD, BOS, EOS, UNK. Raises TokenizerError for a damaged file."""
        names = _BERT_SPECIALS if self.kind == "bert" else _LEARNED_SPECIALS
        found = tuple(self._backend.token_to_id(name) for name in names)
        ids = tuple(one for one in found if one is not None)
        if len(ids) < len(names) or ids[0] != 0:
            raise TokenizerError(
                f"the tokenizer file gives its special tokens the ids {found}; "
                "none may be missing, and PAD must be 0"
            )
        return ids

    @property
    def pad_id(self) -> int:
        return self._specials[0]

    @property
    def bos_id(self) -> int:
        return self._specials[1]

    @property
    def eos_id(self) -> int:
        return self._specials[2]

    @property
    def unk_id(self) -> int:
        return self._specials[3]

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size()

    @functools.cached_property
    def _splits_on_spaces(self) -> bool:
        """True if only spaces separate its words: glosses, and text of scripts with spaces."""
        return self.kind == "word" and isinstance(
            self._backend.pre_tokenizer, pre_tokenizers.WhitespaceSplit
        )

    @functools.cached_property
    def tokens(self) -> tuple[str, ...]:
        """The vocabulary in order of ids."""
        return tuple(self._backend.id_to_token(i) or "" for i in range(self.vocab_size))

    def normalize(self, text: str) -> str:
        """The text that a learned tokenizer reads. U+2581, its word mark, counts as white space."""
        text = unicodedata.normalize("NFC", text.lower() if self.lowercase else text)
        return " ".join(text.replace(_WORD_START, " ").split())

    def encode(self, text: str) -> list[int]:
        """Ids without BOS and EOS; `unk_id` for what the vocabulary lacks."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        if self.kind != "bert":  # a BERT model's JSON holds its own normalization
            texts = [self.normalize(text) for text in texts]
        return [
            encoding.ids
            for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text up to the first EOS, without special tokens.

        Raises ValueError for an id outside the vocabulary.
        """
        tokens = []
        for i in map(operator.index, ids):
            if i == self.eos_id:
                break
            if not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"token id {i} is not in the vocabulary; allowed: 0 to {self.vocab_size - 1}"
                )
            if i not in self._specials:
                tokens.append(self.tokens[i])
        if self.kind == "bert":
            joined = " ".join(tokens).replace(" ##", "")
            text = _BERT_SPACES.sub(lambda space: space[1] or space[2], joined)
            return writing_systems.without_spaces_beside(text)  # BERT puts spaces around Han
        if self.kind == "word" and not self._splits_on_spaces:
            return writing_systems.join_units(tokens)
        text = "".join(tokens).replace(_WORD_START, " ") if self.kind == "bpe" else " ".join(tokens)
        return " ".join(text.split())

    def pieces(self, text: str) -> list[str]:
        """The words or characters of a decoded text, as `writing_systems.pieces` splits it."""
        return writing_systems.pieces(text, by_spaces=self._splits_on_spaces)

    def unknown(self, texts: Sequence[str]) -> Counter[str]:
        """Counts of what becomes `unk_id`: characters for BPE, words for the other kinds."""
        found: Counter[str] = Counter()
        for text, ids in zip(texts, self.encode_all(texts), strict=True):
            if self.unk_id in ids:
                read = text if self.kind == "bert" else self.normalize(text)
                encoding = self._backend.encode(read, add_special_tokens=False)
                found.update(
                    read[start:end]
                    for i, (start, end) in zip(encoding.ids, encoding.offsets)
                    if i == self.unk_id
                )
        return found

    def to_json(self) -> str:
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "kind": self.kind,
            "lowercase": self.lowercase,
            "model": json.loads(self.model),
        }
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Tokenizer":
        """The tokenizer that `to_json` wrote. Raises TokenizerError."""
        try:
            content = json.loads(text)
            if (
                content["format"] != _FORMAT
                or content["version"] > _VERSION
                or content["kind"] not in ("bpe", "word", "bert")
            ):
                raise TokenizerError(
                    f"not a tokenizer that this release reads: format {content['format']!r}, "
                    f"version {content['version']!r}, kind {content['kind']!r}; "
                    f"allowed: {_FORMAT!r} up to version {_VERSION}, kinds bpe, word, bert"
                )
            model = tokenizers.Tokenizer.from_str(json.dumps(content["model"])).to_str()
            tokenizer = Tokenizer(content["kind"], bool(content["lowercase"]), model)
            _ = tokenizer._specials  # checks them
        except TokenizerError:
            raise
        except Exception as error:  # the Rust library raises bare Exception
            raise TokenizerError(
                f"not a tokenizer file ({type(error).__name__}: {error}); "
                "training writes it as tokenizer.json"
            ) from error
        return tokenizer


def make_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """The tokenizer of the config: read from `vocab_file` ("bert") or learned from `texts`.

    Raises ConfigError.
    """
    if config.name == "bert":
        return load_bert_vocabulary(config.vocab_file, config)
    return learn(texts, config)


def learn(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A tokenizer "bpe" or "word" learned from texts; the same texts give the same ids.

    Every character of the texts gets an id, even if that takes more than `vocab_size` entries. In a
    large enough vocabulary with `min_frequency` 1 every word becomes one token. Raises ConfigError
    if there is no text, or if the config's ids differ from the tokenizer's.
    """
    reader = Tokenizer(config.name, config.lowercase, "")
    lines = [line for text in texts if (line := reader.normalize(text))]
    if not lines:
        raise ConfigError(
            f"config.tokenizer.name is {config.name!r}, which learns from the training text, "
            "but there is no text; set data.train_split or 'bert'"
        )
    if config.name == "bpe":
        backend = _learn_bpe(lines, config)
    else:
        backend = _learn_words(lines, config.vocab_size, config.min_frequency, _by_character(lines))
    return _checked(dataclasses.replace(reader, model=backend.to_str()), config)


def unknown_note(unknown: Mapping[str, int], what: str = "") -> str:
    """The counts of `Tokenizer.unknown` as a sentence; "" where there are none.

    `what` names the pieces; by default they are characters or words.
    """
    if not unknown:
        return ""
    most_frequent = sorted(unknown.items(), key=lambda item: -item[1])[:_LISTED_PIECES]
    listed = ", ".join(f"{piece!r} ({count:,})" for piece, count in most_frequent)
    more = ", ..." if len(unknown) > _LISTED_PIECES else ""
    what = what or ("characters" if all(len(piece) == 1 for piece in unknown) else "words")
    return (
        f"{sum(unknown.values()):,} {what} are not in the vocabulary, "
        f"so no output can contain them: {listed}{more}"
    )


def learn_gloss_vocabulary(glosses: Iterable[str]) -> Tokenizer:
    """A vocabulary with one id per gloss of space-separated annotations, for CTC; case is kept.

    Raises ConfigError if there is no gloss.
    """
    reader = Tokenizer("word", False, "")
    lines = [reader.normalize(gloss) for gloss in glosses]
    if not any(lines):
        raise ConfigError(
            "config.model.ctc.target is 'gloss', but no clip of the training split has a gloss; "
            "set it to 'text'"
        )
    backend = _learn_words(lines, vocab_size=None, min_frequency=1)
    return dataclasses.replace(reader, model=backend.to_str())


def load_bert_vocabulary(path: str | Path, config: TokenizerConfig) -> Tokenizer:
    """The WordPiece tokenizer of a BERT vocab.txt: one piece per line, whose number is its id.

    BOS is [CLS] and EOS is [SEP]. Raises ConfigError.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"config.tokenizer.vocab_file is {str(path)!r}, "
            f"which cannot be read as a BERT vocab.txt: {error}"
        ) from error
    pieces = [line.removesuffix("\r") for line in lines]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    if fault := _bert_vocabulary_fault(pieces, vocabulary):
        raise ConfigError(
            f"config.tokenizer.vocab_file is {str(path)!r}, which {fault}; "
            "give a BERT vocab.txt, one piece per line, [PAD] first"
        )
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _checked(Tokenizer("bert", config.lowercase, backend.to_str()), config)


def _bert_vocabulary_fault(pieces: Sequence[str], vocabulary: Mapping[str, int]) -> str:
    missing = [name for name in _BERT_SPECIALS if name not in vocabulary]
    if missing:
        return f"lacks {', '.join(missing)}"
    repeated = [piece for piece, count in Counter(pieces).items() if count > 1]
    if repeated:
        return f"holds {repeated[0]!r} twice"
    if vocabulary["[PAD]"] != 0:
        return f"has [PAD] at id {vocabulary['[PAD]']}, not 0"
    return ""


def _learn_bpe(lines: list[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(unk_token=_LEARNED_SPECIALS[3]))
    words = [
        pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always"),
        pre_tokenizers.Punctuation("isolated"),
    ]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*words, *_by_character(lines)])
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(_LEARNED_SPECIALS),
        show_progress=False,
    )
    backend.train_from_iterator(lines, trainer)
    # Special tokens stay plain entries: the library would search the text for its "added tokens".
    content = json.loads(backend.to_str())
    content["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def _by_character(lines: list[str]) -> list[pre_tokenizers.PreTokenizer]:
    """The split of scripts without spaces into characters; none where the text has none of them.

    So a tokenizer learned from other scripts stays what it was in earlier releases.
    """
    if not any(map(writing_systems.has_unspaced, lines)):
        return []
    return [pre_tokenizers.Split(tokenizers.Regex(writing_systems.UNSPACED_UNIT), "isolated")]


def _learn_words(
    lines: list[str],
    vocab_size: int | None,
    min_frequency: int,
    within_words: list[pre_tokenizers.PreTokenizer] | None = None,
) -> tokenizers.Tokenizer:
    splitter: pre_tokenizers.PreTokenizer = pre_tokenizers.WhitespaceSplit()
    if within_words:
        splitter = pre_tokenizers.Sequence([splitter, *within_words])
    counts = Counter(word for line in lines for word, _ in splitter.pre_tokenize_str(line))
    by_frequency = sorted(
        (word for word, count in counts.items() if count >= min_frequency),
        key=lambda word: (-counts[word], word),
    )
    max_words = None if vocab_size is None else vocab_size - len(_LEARNED_SPECIALS)
    entries = (*_LEARNED_SPECIALS, *by_frequency[:max_words])
    vocabulary = {token: i for i, token in enumerate(entries)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_LEARNED_SPECIALS[3]))
    backend.pre_tokenizer = splitter
    return backend


def _checked(tokenizer: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    for name in ("pad_id", "bos_id", "eos_id"):
        wanted, actual = getattr(config, name), getattr(tokenizer, name)
        if wanted not in (-1, actual):
            raise ConfigError(
                f"config.tokenizer.{name} is {wanted}, but the {config.name!r} tokenizer has "
                f"{actual}; allowed: {actual}, or -1 for the tokenizer's own"
            )
    return tokenizer
