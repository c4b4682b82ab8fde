"""Settings of the server: address, token and limits."""

import dataclasses
from pathlib import Path

from signvit_jax.media.video import VideoLimits

MEBIBYTE = 1 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Options with which `signvit serve` was started."""

    host: str = "127.0.0.1"
    token: str | None = None  # required by /v1 and /metrics; None: no token
    host_names: tuple[str, ...] = ()  # names of this machine, in addition to its addresses
    decode: str = "greedy"  # decoder of requests that name none
    examples: Path | None = None  # folder of training examples; None: saving is not allowed
    is_demo: bool = False
    max_running: int = 4  # translations at the same time, which share batches
    max_waiting: int = 16  # accepted translations that wait
    max_live: int = 4  # live sessions at the same time
    max_upload_bytes: int = 512 * MEBIBYTE
    max_minutes: float = 30.0  # length of an uploaded video
    idle_seconds: float = 30.0  # longest pause within an upload or between frames of a session

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return self.host in LOOPBACK

    @property
    def video_limits(self) -> VideoLimits:
        """Limits of an uploaded video, lower than those for local files."""
        return VideoLimits(
            max_bytes=self.max_upload_bytes,
            max_pixels=4096 * 2304,
            max_seconds=60.0 * self.max_minutes,
            max_frames=round(60.0 * self.max_minutes * 25) + 25,
            max_memory=2 << 30,
            cpu_seconds=900.0,
            wall_seconds=900.0,
        )


# Limits of one camera frame; the page sends images of a few hundred pixels.
FRAME_LIMITS = VideoLimits(
    max_bytes=MEBIBYTE,
    max_pixels=1920 * 1080,
    max_memory=2 << 30,
    cpu_seconds=5.0,
    wall_seconds=5.0,
)
