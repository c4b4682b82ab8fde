"""Small random decoders, and simple, slow decoding: a complete forward pass per clip and token."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from signvit_jax.config.schema import DecoderConfig
from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.models.decoder import PAD, TextDecoder

BOS, EOS = 1, 2
WIDTH = 16
MAX_LEN = 9  # tokens of a sentence, BOS and EOS included
POSITIONS = 5  # of the memory


def options(**values) -> SearchOptions:
    return SearchOptions(bos_id=BOS, eos_id=EOS, **values)


def decoder(seed=6, vocab_size=12, max_len=MAX_LEN, sharpness=8.0, kind=TextDecoder):
    """Return a decoder with random weights.

    The embedding is multiplied by `sharpness`, and that of EOS by 1.5 more, so that distributions
    are peaked and sentences end at different lengths.
    """
    config = DecoderConfig(hidden_dim=WIDTH, num_layers=2, num_heads=2, ff_dim=32, max_len=max_len)
    rngs = nnx.Rngs(params=jax.random.key(seed))
    random_decoder = kind(config, vocab_size, dtype=jnp.float32, rngs=rngs)
    embedding = random_decoder.embedding
    embedding[...] = embedding[...].at[EOS].multiply(1.5) * sharpness
    return random_decoder


def memory(clips, seed=0, positions=POSITIONS):
    """Return a random memory for the decoder, float32 (clips, positions, WIDTH)."""
    return 2.0 * jax.random.normal(jax.random.key(100 + seed), (clips, positions, WIDTH))


def ragged(clips, seed=0, positions=POSITIONS):
    """Return a memory, and random lengths from 1 to `positions`, int32 (clips)."""
    return memory(clips, seed, positions), jnp.asarray(
        1 + np.random.default_rng(seed).integers(0, positions, clips), jnp.int32
    )


@jax.jit
def _forward(decoders, tokens, memories, lengths):
    probabilities = [
        jax.nn.softmax(d(tokens, m, n)) for d, m, n in zip(decoders, memories, lengths)
    ]
    return jnp.log(sum(probabilities) / len(probabilities))


def slow_log_probs(sources, clip, prefix):
    """Return the log-probabilities of the token after `prefix`, from a complete forward pass.

    The probabilities of an ensemble are averaged. PAD is impossible.
    """
    decoders = [s.decoder for s in sources]
    tokens = np.full((1, decoders[0].max_len), PAD)
    tokens[0, : len(prefix)] = prefix
    lengths = [
        None if s.memory_lengths is None else s.memory_lengths[clip : clip + 1] for s in sources
    ]
    log_probs = np.array(
        _forward(
            decoders, jnp.asarray(tokens), [s.memory[clip : clip + 1] for s in sources], lengths
        )[0, len(prefix) - 1]
    )
    log_probs[PAD] = -np.inf
    return log_probs


def _without_repeats(log_probs, prefix, size):
    """Make each token impossible that would repeat an n-gram of `size` tokens of the prefix."""
    if size:
        ngrams = {tuple(prefix[i : i + size]) for i in range(len(prefix) - size + 1)}
        for token in range(len(log_probs)):
            if (*prefix, token)[-size:] in ngrams:
                log_probs[token] = -np.inf
    return log_probs


def slow_greedy(sources, clip, max_len, no_repeat=0):
    """Return the tokens of the greedy sentence and the log-probability of each token."""
    sources = [sources] if isinstance(sources, Source) else sources
    tokens, token_log_probs = [BOS], [0.0]
    while len(tokens) < max_len and tokens[-1] != EOS:
        log_probs = _without_repeats(slow_log_probs(sources, clip, tokens), tokens, no_repeat)
        tokens.append(int(np.argmax(log_probs)))
        token_log_probs.append(log_probs[tokens[-1]])
    return tokens, token_log_probs


def slow_beam(sources, clip, max_len, beam_size, divisor, no_repeat=0, with_greedy=True):
    """Run the reference's beam search for one clip; return (tokens, score), best first.

    `divisor(length)` normalizes scores. `with_greedy`: add the greedy sentence if pruning lost it.
    """
    sources = [sources] if isinstance(sources, Source) else sources

    def has_ended(tokens):
        return len(tokens) > 1 and tokens[-1] == EOS

    beams = [([BOS], 0.0)]
    for _ in range(max_len - 1):
        candidates = []
        for tokens, total in beams:
            if has_ended(tokens):
                candidates.append((tokens, total))
                continue
            log_probs = _without_repeats(slow_log_probs(sources, clip, tokens), tokens, no_repeat)
            candidates += [
                ([*tokens, int(t)], total + log_probs[t])
                for t in np.argsort(-log_probs, kind="stable")[:beam_size]
                if log_probs[t] > -np.inf
            ]
        beams = sorted(
            candidates, key=lambda candidate: -candidate[1] / divisor(len(candidate[0]))
        )[:beam_size]
    found = [(tokens, total / divisor(len(tokens))) for tokens, total in beams]
    tokens, token_log_probs = slow_greedy(sources, clip, max_len, no_repeat)
    if with_greedy and tokens not in [t for t, _ in found]:
        found.append((tokens, sum(token_log_probs) / divisor(len(tokens))))
        found = sorted(found, key=lambda hypothesis: -hypothesis[1])[:beam_size]
    return found


def sentence(row):
    """Return a row of tokens without its padding."""
    return [int(token) for token in row if token != PAD]


class CountingDecoder(TextDecoder):
    """A decoder that appends the position of every decoding step to `steps`."""

    steps = []  # noqa: RUF012

    def step(self, tokens, position, *rest):
        jax.debug.callback(lambda p: self.steps.append(int(p)), position)
        return super().step(tokens, position, *rest)
