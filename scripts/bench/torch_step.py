"""One row of `train_step.py`: the training step, or the encoder, in plain PyTorch.

It runs under bf16 autocast. The only argument is the case, as JSON.
"""

import json
import resource
import sys
import time

import torch
from torch_translator import Translator

FULL = {
    "model": {
        "encoder": {
            "output_dim": 1024,
            "vit_hidden_dim": 1024,
            "vit_num_heads": 16,
            "vit_num_layers": 24,
            "vit_mlp_dim": 4096,
            "patch_size": 16,
        },
        "temporal": {
            "num_queries": 32,
            "num_heads": 16,
            "num_temporal_conv": 4,
            "kernel_size": 3,
            "dropout": 0.2,
        },
        "decoder": {
            "hidden_dim": 512,
            "num_layers": 4,
            "num_heads": 8,
            "ff_dim": 1024,
            "dropout": 0.1,
            "max_len": 100,
        },
        "ctc": {"dropout": 0.1},
    },
    "training": {"label_smoothing": 0.05, "ctc_weight": 0.3, "ce_weight": 0.7},
    "data": {"image_size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}
TINY_ENCODER = {
    "output_dim": 64,
    "vit_hidden_dim": 64,
    "vit_num_heads": 2,
    "vit_num_layers": 2,
    "vit_mlp_dim": 128,
}
TINY_DECODER = {"hidden_dim": 64, "num_layers": 2, "num_heads": 2, "ff_dim": 128}
TEXT, BOS, EOS = 48, 101, 102


def main() -> None:
    case = json.loads(sys.argv[1])
    config, vocabulary = FULL, 30_522
    if case["size"] == "tiny":
        config["model"]["encoder"] |= TINY_ENCODER
        config["model"]["decoder"] |= TINY_DECODER
        config["data"]["image_size"], vocabulary = 64, 500
    config["model"]["encoder"] |= {"dropout": 0.2, "attention_dropout": case["attention_dropout"]}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = Translator(config, vocabulary)
        image, clips = config["data"]["image_size"], case["clips"]
        video = torch.randint(0, 256, (clips, case["frames"], image, image, 3), dtype=torch.uint8)
        tokens = torch.zeros(clips, TEXT, dtype=torch.long)
        tokens[:, :28] = torch.randint(103, vocabulary, (clips, 28))
        tokens[:, 0], tokens[:, 27] = BOS, EOS
        lengths = torch.full((clips,), 28)
    encodes = case.get("mode") == "encode"
    optimizer = None if encodes else adamw(model, device)
    # Parts of the loss that torch cannot trace (CTC) run eagerly.
    function = torch.compile(model.loss) if case.get("compile") else model.loss

    def encode() -> None:
        with torch.inference_mode():
            model.encoder(video)

    def train() -> None:
        assert optimizer is not None
        with torch.autocast(device, torch.bfloat16):
            loss = function(video, tokens, lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if encodes:
        model = model.to(torch.bfloat16).eval()
    step = encode if encodes else train

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - start
    for _ in range(2):
        step()
    timings = []
    for _ in range(3):
        wait()
        start = time.perf_counter()
        for _ in range(case["steps"]):
            step()
        wait()
        timings.append((time.perf_counter() - start) / case["steps"])
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "seconds": sorted(timings)[1],
        "compile_seconds": first,
        "peak_bytes": peak,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def adamw(model: Translator, device: str) -> torch.optim.Optimizer:
    encoder = list(model.encoder.parameters())
    rest = [*model.decoder.parameters(), *model.ctc_head.parameters()]
    groups = [{"params": encoder, "lr": 5e-5}, {"params": rest, "lr": 1.5e-4}]
    return torch.optim.AdamW(groups, weight_decay=0.001, fused=device == "cuda")


if __name__ == "__main__":
    main()
