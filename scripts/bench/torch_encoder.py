"""The reference's encoder in plain PyTorch, for the comparison of `encoder_cpu.py`.

`encoder_cpu.py` starts it with any Python that has torch and numpy (JAX is not needed) and
exchanges JSON lines with it through standard input and output. It encodes one clip per request.
"""

import json
import sys
import time

import numpy as np
import torch
from torch_translator import VideoEncoder


def main() -> None:
    dtype = getattr(torch, sys.argv[1])
    first = json.loads(sys.stdin.readline())
    torch.set_num_threads(first["threads"])
    with torch.device("meta"):
        encoder = VideoEncoder(first["config"])
    tensors = {
        name.removeprefix("encoder."): torch.from_numpy(value)
        for name, value in np.load(first["weights"]).items()
        if name.startswith("encoder.")
    }
    encoder.load_state_dict(tensors, assign=True)
    for name in ("mean", "std"):  # constants that are not in a state dict
        setattr(encoder, name, torch.tensor(first["config"]["data"][name]).view(1, 3, 1, 1))
    encoder = encoder.to(dtype).eval()
    video = torch.from_numpy(np.load(first["video"]))
    about = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    print(json.dumps({"about": about}), flush=True)
    for line in sys.stdin:
        frames = json.loads(line)["frames"]
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            pooled = encoder(video[:, :frames])
        times = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
        }
        np.save(first["out"], pooled.float().numpy())
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
