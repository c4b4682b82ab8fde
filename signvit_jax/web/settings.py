"""Settings of the server: its address, its token, and what one client may take."""

import dataclasses
from pathlib import Path

from signvit_jax.media.video import VideoLimits

MEBIBYTE = 1 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """What `signvit serve` was started with."""

    host: str = "127.0.0.1"
    token: str | None = None  # that every request to /v1 and /metrics must bring
    host_names: tuple[str, ...] = ()  # of this machine, besides its addresses
    decode: str = "greedy"  # where a request names no decoder
    examples: Path | None = None  # folder of training examples; None: none can be saved
    is_demo: bool = False
    max_running: int = 4  # translations at the same time; they share batches
    max_waiting: int = 16  # translations accepted beyond those
    max_live: int = 4  # live sessions at the same time
    max_upload_bytes: int = 512 * MEBIBYTE
    max_minutes: float = 30.0  # of an uploaded video
    idle_seconds: float = 30.0  # without a byte of an upload, or a frame of a session

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return self.host in LOOPBACK

    @property
    def video_limits(self) -> VideoLimits:
        """Limits of an uploaded video, lower than those of the user's own files."""
        return VideoLimits(
            max_bytes=self.max_upload_bytes,
            max_pixels=4096 * 2304,
            max_seconds=60.0 * self.max_minutes,
            max_frames=round(60.0 * self.max_minutes * 25) + 25,
            max_memory=2 << 30,
            cpu_seconds=900.0,
            wall_seconds=900.0,
        )


# Of one frame of a camera: the page sends images of some hundred pixels.
FRAME_LIMITS = VideoLimits(
    max_bytes=MEBIBYTE,
    max_pixels=1920 * 1080,
    max_memory=2 << 30,
    cpu_seconds=5.0,
    wall_seconds=5.0,
)
