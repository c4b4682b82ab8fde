"""The reference system's model in plain PyTorch, with its parameter names, for the benchmarks.

Needs torch alone. `config` has the keys of a `signvit_jax.config.schema.Config`; only those that
the model of the preset `reference` has are used.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class FrameEncoder(nn.Module):
    """Normalized images (n, 3, h, w) to features (n, d): a ViT, and the mean of its tokens."""

    def __init__(self, encoder: dict, image_size: int):
        super().__init__()
        width, patch = encoder["vit_hidden_dim"], encoder["patch_size"]
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (image_size // patch) ** 2, width) * 0.02)
        self.drop = nn.Dropout(encoder["dropout"])
        layer = nn.TransformerEncoderLayer(
            width,
            encoder["vit_num_heads"],
            encoder["vit_mlp_dim"],
            encoder["dropout"],
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(
            layer, encoder["vit_num_layers"], enable_nested_tensor=False
        )
        for block in self.transformer.layers:
            block.self_attn.dropout = encoder["attention_dropout"]
        self.norm = nn.LayerNorm(width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = (
            torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        )
        return self.norm(self.transformer(self.drop(tokens))).mean(1)


class TemporalConvBlock(nn.Module):
    """Pre-norm depthwise-separable convolution over time with a residual: (b, t, d) to itself."""

    def __init__(self, width: int, kernel: int, rate: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv_depthwise = nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=width, bias=False
        )
        self.conv_pointwise = nn.Conv1d(width, width, 1)
        self.drop = nn.Dropout(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(self.conv_depthwise(self.norm(x).transpose(1, 2)))
        return x + self.drop(self.conv_pointwise(inner).transpose(1, 2))


class TemporalAttention(nn.Module):
    """Frame features (b, t, f) to pooled tokens (b, q, d)."""

    def __init__(self, temporal: dict, input_width: int, width: int):
        super().__init__()
        rate = temporal["dropout"]
        self.input_proj = nn.Sequential(
            nn.Linear(input_width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(rate)
        )
        self.temporal_convs = nn.ModuleList(
            TemporalConvBlock(width, temporal["kernel_size"], rate)
            for _ in range(temporal["num_temporal_conv"])
        )
        self.queries = nn.Parameter(torch.randn(temporal["num_queries"], width) * 0.02)
        self.cross_attn = nn.MultiheadAttention(
            width, temporal["num_heads"], rate, batch_first=True
        )
        self.attn_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(rate), nn.Linear(4 * width, width)
        )
        self.refinement = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(rate),
            nn.Linear(4 * width, width),
            nn.LayerNorm(width),
        )
        self.drop = nn.Dropout(rate)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.input_proj(features)
        for conv in self.temporal_convs:
            x = conv(x)
        queries = self.queries.expand(len(x), -1, -1)
        x = self.attn_norm(
            queries + self.drop(self.cross_attn(queries, x, x, need_weights=False)[0])
        )
        x = self.ffn_norm(x + self.ffn(x))
        return x + self.refinement(x)


class VideoEncoder(nn.Module):
    """uint8 video (b, t, h, w, 3) to pooled tokens (b, q, d); no frame is padding."""

    def __init__(self, config: dict):
        super().__init__()
        model, data = config["model"], config["data"]
        self.backbone = FrameEncoder(model["encoder"], data["image_size"])
        self.temporal_attn = TemporalAttention(
            model["temporal"], model["encoder"]["output_dim"], model["decoder"]["hidden_dim"]
        )
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        b, t = video.shape[:2]
        images = (
            video.flatten(0, 1).permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0 - self.mean
        ) / self.std
        return self.temporal_attn(self.backbone(images).view(b, t, -1))


class TextDecoder(nn.Module):
    """Tokens (b, l) and memory (b, q, d) to logits (b, l, v)."""

    def __init__(self, decoder: dict, vocabulary: int):
        super().__init__()
        width, length = decoder["hidden_dim"], decoder["max_len"]
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.embed.weight, std=0.02)
        angles = torch.arange(length)[:, None] * torch.exp(
            torch.arange(0, width, 2) * (-math.log(10_000.0) / width)
        )
        self.register_buffer(
            "positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1), persistent=False
        )
        layer = nn.TransformerDecoderLayer(
            width,
            decoder["num_heads"],
            decoder["ff_dim"],
            decoder["dropout"],
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.decoder = nn.TransformerDecoder(layer, decoder["num_layers"])
        self.drop = nn.Dropout(decoder["dropout"])

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        x = self.drop(self.embed(tokens) * self.embed.embedding_dim**0.5 + self.positions[:length])
        # True where a token may not attend. tgt_is_causal is False because torch's causal kernels
        # do not accept a mask of padding besides.
        causal_mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.decoder(
            x, memory, tgt_mask=causal_mask, tgt_key_padding_mask=tokens == 0, tgt_is_causal=False
        )
        return F.linear(x, self.embed.weight)


class Translator(nn.Module):
    """The complete model; `loss` is what the benchmarks call."""

    def __init__(self, config: dict, vocabulary: int):
        super().__init__()
        width, rate = config["model"]["decoder"]["hidden_dim"], config["model"]["ctc"]["dropout"]
        self.encoder = VideoEncoder(config)
        self.decoder = TextDecoder(config["model"]["decoder"], vocabulary)
        self.ctc_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(rate), nn.Linear(width, vocabulary)
        )
        self.training_config = config["training"]

    def loss(
        self, video: torch.Tensor, tokens: torch.Tensor, token_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Return the reference's loss: weighted CTC and cross-entropy with label smoothing."""
        pooled = self.encoder(video)
        targets, vocabulary = tokens[:, 1:], self.ctc_head[-1].out_features
        # torch spreads the smoothing over the target as well.
        smoothing = self.training_config["label_smoothing"] * vocabulary / (vocabulary - 1)
        logits = self.decoder(tokens[:, :-1], pooled).float()
        ce = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=0, label_smoothing=smoothing
        )
        log_probs = self.ctc_head(pooled).float().log_softmax(-1).transpose(0, 1)
        steps = torch.full_like(token_lengths, pooled.shape[1])
        per_clip = F.ctc_loss(
            log_probs, targets, steps, token_lengths - 2, reduction="none", zero_infinity=True
        )
        ctc = (per_clip / (token_lengths - 2).clamp(min=1)).mean()
        return self.training_config["ctc_weight"] * ctc + self.training_config["ce_weight"] * ce
