"""Text to token ids and back: BPE or words learned from the training text, or a BERT vocabulary file. Ids are ints; PAD (the CTC blank) is always 0.

Learned tokenizers read NFC text with runs of white space collapsed; their ids are PAD 0, BOS 1, EOS 2, UNK 3. For BPE
`decode(encode(text)) == normalize(text)` unless the text holds characters that the training text did not.

Where the training text has a script without spaces (`text_scripts`), its characters are tokens, never
its sentences. "word" then forgets which spaces stood beside such characters, as BERT does beside Han.
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
from signvit_jax.text import scripts

_FORMAT = "signvit_jax tokenizer"
_VERSION = 1
_WORD_START = "\u2581"
# Names that hold a space: no word of any text can spell them, so no text can forge a special token.
_LEARNED_SPECIALS = ("< pad >", "< bos >", "< eos >", "< unk >")
_BERT_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
# Spaces that BERT's splitting put in: before . ? ! , and around an apostrophe within a word.
_BERT_SPACES = re.compile(r" ([.?!,])|(?<=\w) (') (?=\w)")


class TokenizerError(SignVitError, ValueError):
    """A tokenizer file that cannot be read."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """`kind` is "bpe", "word" or "bert"; `model` is the JSON of the `tokenizers` library, which holds the vocabulary."""

    kind: str
    lowercase: bool
    model: str

    @functools.cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.model)

    @functools.cached_property
    def _specials(self) -> tuple[int | None, ...]:
        """Ids of PAD, BOS, EOS, UNK; None only in a damaged file, which `from_json` refuses."""
        names = _BERT_SPECIALS if self.kind == "bert" else _LEARNED_SPECIALS
        return tuple(self._backend.token_to_id(name) for name in names)

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
    def _cuts_by_spaces(self) -> bool:
        """Whether spaces alone set its words apart: glosses, and text of scripts with spaces."""
        return self.kind == "word" and isinstance(
            self._backend.pre_tokenizer, pre_tokenizers.WhitespaceSplit
        )

    @functools.cached_property
    def tokens(self) -> tuple[str, ...]:
        """The vocabulary in the order of the ids."""
        return tuple(self._backend.id_to_token(i) for i in range(self.vocab_size))

    def normalize(self, text: str) -> str:
        """What a learned tokenizer reads of a text; its word mark U+2581 counts as white space."""
        text = unicodedata.normalize("NFC", text.lower() if self.lowercase else text)
        return " ".join(text.replace(_WORD_START, " ").split())

    def encode(self, text: str) -> list[int]:
        """Ids without BOS and EOS; what the vocabulary does not know becomes `unk_id`."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        if self.kind != "bert":  # a BERT model's JSON holds its own normalization
            texts = [self.normalize(text) for text in texts]
        return [
            encoding.ids
            for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text up to the first EOS, special ids left out. Raises ValueError for an id that is not in the vocabulary."""
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
            text = _BERT_SPACES.sub(
                lambda space: space[1] or space[2], " ".join(tokens).replace(" ##", "")
            )
            return scripts.without_spaces_beside(text)  # BERT's splitting sets Han apart
        if self.kind == "word" and not self._cuts_by_spaces:
            return scripts.join_units(tokens)
        text = "".join(tokens).replace(_WORD_START, " ") if self.kind == "bpe" else " ".join(tokens)
        return " ".join(text.split())

    def pieces(self, text: str) -> list[str]:
        """The words (or characters) of a decoded text, a space before each that is set apart."""
        return scripts.pieces(text, by_spaces=self._cuts_by_spaces)

    def unknown(self, texts: Sequence[str]) -> Counter[str]:
        """What of the texts becomes `unk_id`, and how often: characters of BPE, words of the others."""
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
        """Reads what `to_json` wrote. Raises TokenizerError."""
        try:
            content = json.loads(text)
            if (
                content["format"] != _FORMAT
                or content["version"] > _VERSION
                or content["kind"] not in ("bpe", "word", "bert")
            ):
                raise TokenizerError(
                    f"not a tokenizer that this release reads: format {content['format']!r}, version {content['version']!r}, "
                    f"kind {content['kind']!r}; "
                    f"allowed: {_FORMAT!r} up to version {_VERSION}, kinds bpe, word, bert"
                )
            model = tokenizers.Tokenizer.from_str(json.dumps(content["model"])).to_str()
            tokenizer = Tokenizer(content["kind"], bool(content["lowercase"]), model)
            special_ids = tokenizer._specials
        except TokenizerError:
            raise
        except Exception as error:  # the Rust library raises bare Exception
            raise TokenizerError(
                f"not a tokenizer file ({type(error).__name__}: {error}); it is written as tokenizer.json by training"
            ) from error
        if None in special_ids or special_ids[0] != 0:
            raise TokenizerError(
                f"a tokenizer file whose special tokens have the ids {special_ids}; all must be there and PAD must be 0"
            )
        return tokenizer


def make_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the config asks for: read from `vocab_file` ("bert") or learned from the training texts. Raises ConfigError."""
    return (
        load_bert_vocabulary(config.vocab_file, config)
        if config.name == "bert"
        else learn(texts, config)
    )


def learn(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Learns "bpe" or "word" from texts; the same texts give the same ids. Raises ConfigError if there is no text or the config's ids disagree.

    Every character of the texts has an id even where that takes more than `vocab_size` entries. With room enough and `min_frequency` 1
    every word becomes one token.
    """
    reader = Tokenizer(config.name, config.lowercase, "")
    lines = [line for text in texts if (line := reader.normalize(text))]
    if not lines:
        raise ConfigError(
            f"config.tokenizer.name is {config.name!r}, which learns from the training text, but there is no text; set data.train_split or 'bert'"
        )
    if config.name == "bpe":
        backend = _learn_bpe(lines, config)
    else:
        backend = _learn_words(lines, config.vocab_size, config.min_frequency, _by_character(lines))
    return _checked(dataclasses.replace(reader, model=backend.to_str()), config)


def unknown_note(unknown: Mapping[str, int], what: str = "") -> str:
    """What `Tokenizer.unknown` found, said for people; "" where it found nothing. `what`: what to call it."""
    if not unknown:
        return ""
    named = ", ".join(
        f"{piece!r} ({count:,})"
        for piece, count in sorted(unknown.items(), key=lambda item: -item[1])[:8]
    )
    what = what or ("characters" if all(len(piece) == 1 for piece in unknown) else "words")
    return f"{sum(unknown.values()):,} {what} are not in the vocabulary, so no output can hold them: {named}{', ...' if len(unknown) > 8 else ''}"


def learn_gloss_vocabulary(glosses: Iterable[str]) -> Tokenizer:
    """One id a gloss, for CTC on glosses: every gloss of the (space-separated) annotations, case kept, blank = PAD = 0."""
    reader = Tokenizer("word", False, "")
    lines = [reader.normalize(gloss) for gloss in glosses]
    if not any(lines):
        raise ConfigError(
            "config.model.ctc.target is 'gloss', but no clip of the training split has a gloss; set it to 'text'"
        )
    backend = _learn_words(lines, vocab_size=None, min_frequency=1)
    return dataclasses.replace(reader, model=backend.to_str())


def load_bert_vocabulary(path: str | Path, config: TokenizerConfig) -> Tokenizer:
    """A BERT `vocab.txt` (one piece a line, line number = id) with WordPiece; BOS is [CLS] and EOS is [SEP]. Raises ConfigError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"config.tokenizer.vocab_file is {str(path)!r}, which cannot be read as a BERT vocab.txt: {error}"
        ) from error
    pieces = [line.removesuffix("\r") for line in lines]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    missing = [name for name in _BERT_SPECIALS if name not in vocabulary]
    doubled = [piece for piece, count in Counter(pieces).items() if count > 1]
    if missing or doubled or vocabulary["[PAD]"] != 0:
        fault = (
            f"lacks {', '.join(missing)}"
            if missing
            else f"holds {doubled[0]!r} twice"
            if doubled
            else f"has [PAD] at id {vocabulary['[PAD]']}, not 0"
        )
        raise ConfigError(
            f"config.tokenizer.vocab_file is {str(path)!r}, which {fault}; give a BERT vocab.txt, one piece a line, [PAD] first"
        )
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _checked(Tokenizer("bert", config.lowercase, backend.to_str()), config)


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
    # Specials stay plain entries of the vocabulary: as the library's "added tokens" they would be looked for in the text.
    content = json.loads(backend.to_str())
    content["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def _by_character(lines: list[str]) -> list[pre_tokenizers.PreTokenizer]:
    """What cuts scripts without spaces; nothing where the text has none of them, as it ever was."""
    if not any(map(scripts.has_unspaced, lines)):
        return []
    return [pre_tokenizers.Split(tokenizers.Regex(scripts.UNSPACED_UNIT), "isolated")]


def _learn_words(
    lines: list[str],
    vocab_size: int | None,
    min_frequency: int,
    within_words: list[pre_tokenizers.PreTokenizer] | None = None,
) -> tokenizers.Tokenizer:
    cut: pre_tokenizers.PreTokenizer = pre_tokenizers.WhitespaceSplit()
    if within_words:
        cut = pre_tokenizers.Sequence([cut, *within_words])
    counts = Counter(word for line in lines for word, _ in cut.pre_tokenize_str(line))
    by_frequency = sorted(
        (word for word, count in counts.items() if count >= min_frequency),
        key=lambda word: (-counts[word], word),
    )
    kept = (
        by_frequency if vocab_size is None else by_frequency[: vocab_size - len(_LEARNED_SPECIALS)]
    )
    vocabulary = {token: i for i, token in enumerate((*_LEARNED_SPECIALS, *kept))}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_LEARNED_SPECIALS[3]))
    backend.pre_tokenizer = cut
    return backend


def _checked(tokenizer: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    for name in ("pad_id", "bos_id", "eos_id"):
        wanted, own = getattr(config, name), getattr(tokenizer, name)
        if wanted not in (-1, own):
            raise ConfigError(
                f"config.tokenizer.{name} is {wanted}, but the {config.name!r} tokenizer has {own}; allowed: {own}, or -1 for the tokenizer's own"
            )
    return tokenizer
