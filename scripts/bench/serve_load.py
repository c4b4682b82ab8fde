"""Put `signvit serve --demo` under load, and check that every client gets its own clip's text.

    python scripts/bench/serve_load.py --minutes=10 --clients=32 --live=4

Clients translate the packaged clips again and again, each in its own random order. Answers 429 (the
queue is full) are counted by the place in the queue that they name, and the client tries again.
Live sessions get 12.5 frames a second, and must drop none. At the end the server gets SIGTERM while
clients wait: it must answer the requests that it has accepted. Prints JSON; exits with 1 if a text
was wrong, an accepted request was lost, or a frame was dropped.
"""

import argparse
import collections
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image
from websockets.sync.client import connect

from signvit_jax.demo.packaged import demo_clips
from signvit_jax.inference.translator import load_translator
from signvit_jax.media.video import Sampling, open_video

_LIVE_RATE = 12.5  # frames per second, as the page sends them
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Counts:
    """The results of all clients."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.places: collections.Counter[int] = collections.Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.refused_at_end = 0
        self.in_flight = 0
        self.stopping = threading.Event()
        self.dropped: list[int] = []
        self.latencies: list[float] = []
        self.final_latencies: list[float] = []
        self.live_texts: list[str] = []
        self.live_frames = 0
        self.finished: dict[int, int] = {}  # of each client, answers with a text
        self.live_lost: list[str] = []


def translate_over_and_over(
    address: str, clips: list[tuple[bytes, str]], seed: int, counts: Counts
) -> None:
    """Act as one client until the server stops."""
    choose = random.Random(seed)
    with counts.lock:
        counts.finished[seed] = 0
    while not counts.stopping.is_set():
        content, expected = choose.choice(clips)
        began = time.monotonic()
        try:
            request = urllib.request.Request(f"{address}v1/translate", content, method="POST")
            with _DIRECT.open(request, timeout=300) as answer:
                text = json.load(answer)["text"]
        except urllib.error.HTTPError as error:
            document = json.load(error)["error"]
            with counts.lock:
                if error.code == 429:
                    counts.places[document["place"]] += 1
                elif error.code == 503 and counts.stopping.is_set():
                    counts.refused_at_end += 1
                else:
                    counts.lost.append(f"{error.code} {document}")
            counts.stopping.wait(choose.uniform(0.2, 1.0))
            continue
        except OSError as error:
            with counts.lock:
                # A request without a connection was never accepted, so it is not lost.
                is_refused = counts.stopping.is_set() and "refused" in str(error)
                if is_refused:
                    counts.refused_at_end += 1
                else:
                    counts.lost.append(repr(error))
            return
        with counts.lock:
            counts.seconds.append(time.monotonic() - began)
            counts.finished[seed] += 1
            if text != expected:
                counts.wrong.append(f"{expected!r} became {text!r}")


def sign_live(address: str, frames: list[bytes], counts: Counts) -> None:
    """Act as one camera until the server stops."""
    address = address.replace("http", "ws")
    with connect(f"{address}v1/live", proxy=None, max_size=None) as socket:
        assert json.loads(socket.recv()) == {"event": "ready"}
        ended = threading.Event()
        dropped = 0

        def listen() -> None:
            nonlocal dropped
            for message in socket:
                event = json.loads(message)
                if event["event"] == "update":
                    dropped = event["dropped"]
                    with counts.lock:
                        counts.latencies.append(event["latency"])
                        if event["final"]:
                            counts.final_latencies.append(event["latency"])
                        counts.live_texts += [segment["text"] for segment in event["final"]]
                elif event["event"] == "ended":
                    ended.set()
                elif event["event"] == "error":
                    with counts.lock:
                        counts.live_lost.append(str(event))

        listening = threading.Thread(target=listen)
        listening.start()
        begin, number = time.monotonic(), 0
        while listening.is_alive() and not ended.is_set():
            time.sleep(max(0.0, begin + number / _LIVE_RATE - time.monotonic()))
            try:
                socket.send(frames[number % len(frames)])
            except Exception:  # the server has closed it
                break
            number += 1
        listening.join(120)
    with counts.lock:
        counts.dropped.append(dropped)
        counts.live_frames += number
        if not ended.is_set():
            counts.live_lost.append("a session ended without its last text")


def jpegs(path: Path, rest_seconds: float) -> list[bytes]:
    """The frames of a clip as JPEGs, as the page sends them; the last one stays `rest_seconds`."""
    with open_video(path, Sampling(frame_rate=_LIVE_RATE)) as video:
        frames = [frame for _, frame in video.frames]
    frames += [frames[-1]] * round(rest_seconds * _LIVE_RATE)
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=85)
        encoded.append(buffer.getvalue())
    return encoded


def resident_mebibytes(address: str) -> float:
    """Ask the server how much memory it uses."""
    with _DIRECT.open(f"{address}metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith("process_resident_memory_bytes ")]
    return float(line.split()[1]) / 2**20


def quantile(values: list[float], share: float) -> float | None:
    """The value that this share of all values does not exceed, rounded."""
    return round(sorted(values)[int(share * (len(values) - 1))], 3) if values else None


def processor() -> str:
    """The name of the processor, and how many cores may be used."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {len(os.sched_getaffinity(0))} cores"


def start_server(max_live: int) -> tuple["subprocess.Popen[str]", str]:
    """Start the server, and wait until its programs are compiled; return it and its address."""
    command = [sys.executable, "-m", "signvit_jax.serve", "--demo", "--port=0"]
    command.append(f"--max_live={max_live}")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    print(f"serving at {address}, compiling ...", file=sys.stderr, flush=True)
    while True:
        with _DIRECT.open(f"{address}healthz", timeout=60) as answer:
            if json.load(answer)["is_warm"]:
                return server, address
        time.sleep(1.0)


def main() -> int:
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("--minutes", type=float, default=10.0)
    flags.add_argument("--clients", type=int, default=32)
    flags.add_argument("--live", type=int, default=4)
    arguments = flags.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    demo = demo_clips()
    print("texts of the clips, by translate ...", file=sys.stderr, flush=True)
    translator = load_translator(Path(demo[0].video).parents[1] / "model")
    expected = translator.translate([clip.video for clip in demo])
    clips = [
        (clip.video.read_bytes(), translation.text) for clip, translation in zip(demo, expected)
    ]
    server, address = start_server(max(arguments.live, 1))
    counts = Counts()
    threads = [
        threading.Thread(target=translate_over_and_over, args=(address, clips, seed, counts))
        for seed in range(arguments.clients)
    ]
    threads += [
        threading.Thread(target=sign_live, args=(address, jpegs(clip.video, 3.0), counts))
        for clip in demo[: arguments.live]
    ]
    for thread in threads:
        thread.start()
    memory = []
    end = time.monotonic() + 60.0 * arguments.minutes
    while time.monotonic() < end:
        memory.append(round(resident_mebibytes(address)))
        time.sleep(min(10.0, max(end - time.monotonic(), 0.1)))
    before = len(counts.seconds)
    counts.stopping.set()
    stopped = time.monotonic()
    server.send_signal(signal.SIGTERM)
    code = server.wait(600)
    stop_seconds = time.monotonic() - stopped
    for thread in threads:
        thread.join(300)
    refused = counts.places.total()
    report = {
        "processor": processor(),
        "load_average": os.getloadavg(),
        "minutes": arguments.minutes,
        "clients": arguments.clients,
        "translated": len(counts.seconds),
        "translated_by_client": [min(counts.finished.values()), max(counts.finished.values())],
        "wrong": counts.wrong[:5],
        "lost": counts.lost[:5],
        "p50_seconds": quantile(counts.seconds, 0.5),
        "p95_seconds": quantile(counts.seconds, 0.95),
        "answers_429_by_place": dict(sorted(counts.places.items())),
        "share_of_429": round(refused / max(refused + len(counts.seconds), 1), 3),
        "resident_mebibytes": memory,
        "live_sessions": arguments.live,
        "live_dropped": counts.dropped,
        "live_lost": counts.live_lost[:5],
        "live_frames_sent": counts.live_frames,
        "live_updates": len(counts.latencies),
        "live_latency_p50": quantile(counts.latencies, 0.5),
        "live_latency_p95": quantile(counts.latencies, 0.95),
        "live_latency_max": quantile(counts.latencies, 1.0),
        "final_latency_p95": quantile(counts.final_latencies, 0.95),
        "live_texts": len(counts.live_texts),
        "stop": {
            "exit_code": code,
            "seconds": round(stop_seconds, 2),
            "answered_after_the_signal": len(counts.seconds) - before,
            "refused": counts.refused_at_end,
        },
    }
    print(json.dumps(report, indent=2))
    is_bad = counts.wrong or counts.lost or counts.live_lost or any(counts.dropped)
    is_bad = is_bad or not all(counts.finished.values())
    return 1 if is_bad or code != 128 + signal.SIGTERM else 0


if __name__ == "__main__":
    sys.exit(main())
