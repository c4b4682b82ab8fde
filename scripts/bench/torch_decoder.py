"""The text decoder in plain PyTorch, with our weights, for the comparison of `decoding.py`.

`decoding.py` starts it with any Python that has torch and numpy (JAX is not needed) and exchanges
JSON lines with it through standard input and output.
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F


class TorchDecoder:
    """The decoder of one batch of memory, with or without a key/value cache."""

    def __init__(self, weights: dict[str, np.ndarray]):
        tensors = {
            name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in weights.items()
        }
        self.heads = int(weights["heads"])
        self.embedding, self.positions = tensors["embedding"], tensors["positions"]
        self.width = self.embedding.shape[1]

        def linear(layer: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return tensors[f"{layer}/{name}/kernel"].T.contiguous(), tensors[f"{layer}/{name}/bias"]

        def norm(layer: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return tensors[f"{layer}/{name}/scale"], tensors[f"{layer}/{name}/bias"]

        self.layers = []
        for number in range(int(weights["layers"])):
            memory = F.linear(tensors["memory"], *linear(number, "cross_attention/key_value"))
            self.layers.append(
                {
                    "norms": [
                        norm(number, name)
                        for name in ("self_norm", "cross_norm", "feed_forward_norm")
                    ],
                    "qkv": linear(number, "self_attention/qkv"),
                    "self_out": linear(number, "self_attention/out"),
                    "query": linear(number, "cross_attention/query"),
                    "cross_out": linear(number, "cross_attention/out"),
                    "expand": linear(number, "feed_forward/expand"),
                    "contract": linear(number, "feed_forward/contract"),
                    "memory": [self._split(part) for part in memory.chunk(2, -1)],
                }
            )

    def next_logits(self, tokens: torch.Tensor, cache: list | None = None) -> torch.Tensor:
        """Return the logits (rows, v) after `tokens` (rows, l).

        `cache` has (keys, values) of each layer, or None at the first token, and is updated.
        Without it the complete prefix is computed.
        """
        num_cached = 0 if cache is None or cache[0] is None else cache[0][0].shape[2]
        length = tokens.shape[1]
        embedded = self.embedding[tokens[:, num_cached:]] * self.width**0.5
        x = embedded + self.positions[num_cached:length]
        for number, layer in enumerate(self.layers):
            query, key, value = (
                self._split(part)
                for part in F.linear(self._norm(x, layer, 0), *layer["qkv"]).chunk(3, -1)
            )
            if cache is not None:
                if num_cached:
                    key = torch.cat([cache[number][0], key], 2)
                    value = torch.cat([cache[number][1], value], 2)
                cache[number] = key, value
            attended = F.scaled_dot_product_attention(
                query, key, value, is_causal=query.shape[2] == key.shape[2]
            )
            x = x + F.linear(self._merge(attended), *layer["self_out"])
            query = self._split(F.linear(self._norm(x, layer, 1), *layer["query"]))
            x = x + F.linear(
                self._merge(F.scaled_dot_product_attention(query, *layer["memory"])),
                *layer["cross_out"],
            )
            x = x + F.linear(
                F.gelu(F.linear(self._norm(x, layer, 2), *layer["expand"])), *layer["contract"]
            )
        return F.linear(x[:, -1], self.embedding)

    @torch.inference_mode()
    def decode(self, rows: int, max_len: int, bos_id: int) -> torch.Tensor:
        """Decode greedily, with the cache and up to the limit; return tokens (rows, max_len)."""
        tokens = torch.full((rows, 1), bos_id)
        cache = [None] * len(self.layers)
        while tokens.shape[1] < max_len:
            tokens = torch.cat(
                [tokens, self.next_logits(tokens, cache).argmax(-1, keepdim=True)], 1
            )
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


def main() -> None:
    """Answer each line of JSON with the seconds that the request took.

    Requests: `load` (weights), `logits` (after a prefix), `decode` (complete, with the cache), and
    `step` (one step without the cache).
    """
    print(
        json.dumps({"version": torch.__version__, "threads": torch.get_num_threads()}), flush=True
    )
    decoder: TorchDecoder | None = None
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        if request["do"] == "load":
            with np.load(request["weights"]) as weights:
                decoder = TorchDecoder(dict(weights))
        elif decoder is None:
            raise SystemExit("error: the first request must load weights")
        elif request["do"] == "logits":
            np.save(request["out"], decoder.step_uncached(np.load(request["tokens"])).numpy())
        elif request["do"] == "decode":
            decoder.decode(request["rows"], request["max_len"], request["bos_id"])
        else:
            decoder.step_uncached(np.full((request["rows"], request["length"]), request["bos_id"]))
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
