"""The vocabularies of one model."""

from typing import NamedTuple

from signvit_jax.text.tokenizer import Tokenizer


class Vocabularies(NamedTuple):
    """The decoder's tokenizer, and that of the CTC head if it spells glosses."""

    text: Tokenizer
    gloss: Tokenizer | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """(text tokens, glosses), as `ModelDefinition` takes them; 0 glosses if CTC spells text."""
        return self.text.vocab_size, self.gloss.vocab_size if self.gloss else 0

    @property
    def ctc(self) -> Tokenizer:
        """The tokenizer of the CTC head."""
        return self.gloss or self.text
