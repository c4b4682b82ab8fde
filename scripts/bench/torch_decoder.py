"""The text decoder in plain PyTorch with the weights of ours, with and without a key/value cache: what `decoding.py` compares with."""

import numpy as np
import torch
import torch.nn.functional as F

from signvit_jax.models.decoder import TextDecoder
from signvit_jax.models.positions import sinusoids


class TorchDecoder:
    """`next_logits` for one more token of every row; without `cache` the whole prefix is computed anew."""

    def __init__(self, decoder: TextDecoder, memory: np.ndarray):
        def weights(linear):
            return _tensor(linear.kernel[...]).T.contiguous(), _tensor(linear.bias[...])

        def norm(layer_norm):
            return _tensor(layer_norm.scale[...]), _tensor(layer_norm.bias[...])

        self.heads, self.width = decoder.heads, decoder.embedding.shape[1]
        self.embedding, self.positions = _tensor(decoder.embedding[...]), _tensor(sinusoids(decoder.max_len, self.width))
        self.layers = [
            {
                "norms": [norm(n) for n in (layer.self_norm, layer.cross_norm, layer.feed_forward_norm)],
                "qkv": weights(layer.self_attention.qkv),
                "self_out": weights(layer.self_attention.out),
                "query": weights(layer.cross_attention.query),
                "cross_out": weights(layer.cross_attention.out),
                "expand": weights(layer.feed_forward.expand),
                "contract": weights(layer.feed_forward.contract),
                "memory": [self._split(part) for part in F.linear(_tensor(memory), *weights(layer.cross_attention.key_value)).chunk(2, -1)],
            }
            for layer in decoder.layers
        ]

    def next_logits(self, tokens: torch.Tensor, cache: list | None = None) -> torch.Tensor:
        """Logits (rows, v) after `tokens` (rows, l). `cache` holds one (keys, values) a layer, or None at the first token, and is updated."""
        done = 0 if cache is None or cache[0] is None else cache[0][0].shape[2]
        length = tokens.shape[1]
        x = self.embedding[tokens[:, done:]] * self.width**0.5 + self.positions[done:length]
        for number, layer in enumerate(self.layers):
            query, key, value = (self._split(part) for part in F.linear(self._norm(x, layer, 0), *layer["qkv"]).chunk(3, -1))
            if cache is not None:
                if done:
                    key, value = torch.cat([cache[number][0], key], 2), torch.cat([cache[number][1], value], 2)
                cache[number] = key, value
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] == key.shape[2])
            x = x + F.linear(self._merge(attended), *layer["self_out"])
            query = self._split(F.linear(self._norm(x, layer, 1), *layer["query"]))
            x = x + F.linear(self._merge(F.scaled_dot_product_attention(query, *layer["memory"])), *layer["cross_out"])
            x = x + F.linear(F.gelu(F.linear(self._norm(x, layer, 2), *layer["expand"])), *layer["contract"])
        return F.linear(x[:, -1], self.embedding)

    @torch.inference_mode()
    def decode(self, rows: int, max_len: int, bos_id: int) -> torch.Tensor:
        """Greedy decoding with the cache up to the limit: tokens (rows, max_len)."""
        tokens, cache = torch.full((rows, 1), bos_id), [None] * len(self.layers)
        while tokens.shape[1] < max_len:
            tokens = torch.cat([tokens, self.next_logits(tokens, cache).argmax(-1, keepdim=True)], 1)
        return tokens

    @torch.inference_mode()
    def step_uncached(self, tokens: np.ndarray) -> torch.Tensor:
        return self.next_logits(torch.from_numpy(np.array(tokens, np.int64)))

    def _norm(self, x: torch.Tensor, layer: dict, number: int) -> torch.Tensor:
        return F.layer_norm(x, (self.width,), *layer["norms"][number], eps=1e-5)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _merge(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).flatten(2)


def _tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))
