"""Checks of the machine: limits of the process, memory, and the folders that are written to."""

import contextlib
import dataclasses
import fcntl
import os
import resource
import tempfile
import time
from pathlib import Path

from signvit_jax.config.schema import Config
from signvit_jax.doctor.findings import GIB, Finding, Request, gib, joined
from signvit_jax.files.atomic import write_atomically
from signvit_jax.runtime.compilation_cache import cache_folder

# Files that a process may open at once; a large data set has many shards.
_FEW_FILES, _TOO_FEW_FILES = 1024, 256
_SMALL_ADDRESS_SPACE = 32 * GIB  # XLA reserves more of it than it uses
_LITTLE_MEMORY, _TOO_LITTLE_MEMORY = 4 * GIB, GIB
_LITTLE_DISK, _TOO_LITTLE_DISK = 5 * GIB, GIB // 8
_FEW_INODES = 1000
_SLOW_FLUSH = 0.5  # seconds for a small file
# File systems whose locks and times depend on a server.
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "fuse", "ceph", "9p", "virtiofs")


@dataclasses.dataclass(frozen=True)
class LimitFacts:
    """Limits of the process. Sizes are in bytes; -1 = unlimited.

    `batch`: the frames of one batch of the config; 0 without a config.
    """

    shared_memory: int
    open_files: int
    address_space: int
    cores_of_machine: int
    cores_allowed: int
    cores_quota: float  # of the cgroup; 0 = none
    num_workers: int = 0
    prefetch_batches: int = 0
    batch: int = 0


def probe_limits(request: Request, root: Path = Path("/")) -> LimitFacts:
    config = request.config
    data = (config or Config()).data
    try:
        file_system = os.statvfs(root / "dev/shm")
        shared = file_system.f_bavail * file_system.f_frsize
    except OSError:
        shared = 0
    return LimitFacts(
        shared_memory=shared,
        open_files=_limit(resource.RLIMIT_NOFILE),
        address_space=_limit(resource.RLIMIT_AS),
        cores_of_machine=os.cpu_count() or 1,
        cores_allowed=len(os.sched_getaffinity(0)),
        cores_quota=_quota(root),
        num_workers=data.num_workers if config else 0,
        prefetch_batches=data.prefetch_batches if config else 0,
        batch=batch_bytes(config) if config else 0,
    )


def _limit(kind: int) -> int:
    soft, _ = resource.getrlimit(kind)
    return -1 if soft == resource.RLIM_INFINITY else soft


def batch_bytes(config: Config) -> int:
    """Bytes of the frames of a training batch."""
    data = config.data
    return config.training.batch_size * data.num_frames * data.image_size**2 * 3


def _cgroups(root: Path, controller: str) -> list[Path]:
    """The folders of the cgroups of this process, its own first, in version 2 and 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 has a folder for each controller; several of one mount are links to it.
        base = root / "sys/fs/cgroup" / (controller if controllers else "")
        own_folder = base / path.lstrip("/")
        folders.append(own_folder)
        folders += [above for above in own_folder.parents if above.is_relative_to(base)]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _quota(root: Path) -> float:
    """The least number of cores that a cgroup of this process may use; 0 = no limit."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=0.0)


def check_limits(facts: LimitFacts) -> Finding:
    findings = [_shared_memory(facts), _cores(facts)]
    if 0 <= facts.open_files < _FEW_FILES:
        level = "bad" if facts.open_files < _TOO_FEW_FILES else "note"
        findings.append(
            Finding("", level, f"only {facts.open_files} files may be open", "ulimit -n 4096")
        )
    if 0 <= facts.address_space < _SMALL_ADDRESS_SPACE:
        findings.append(
            Finding(
                "",
                "bad" if facts.address_space < _SMALL_ADDRESS_SPACE / 4 else "note",
                f"the address space is limited to {gib(facts.address_space)}",
                "ulimit -v unlimited: JAX reserves more than it uses",
            )
        )
    return joined("limits", findings)


def _shared_memory(facts: LimitFacts) -> Finding:
    found = f"/dev/shm has {gib(facts.shared_memory)} free"
    if not facts.num_workers:
        return Finding("", "ok", f"{found} (used with data.num_workers only)")
    # Each reading process holds its share of the batches read ahead, and the batch that it is
    # filling.
    held = max(facts.prefetch_batches // facts.num_workers, 1) + 1
    needed = facts.num_workers * held * facts.batch
    if facts.shared_memory < needed:
        return Finding(
            "",
            "bad",
            f"{found}, but {facts.num_workers} reading processes (data.num_workers) need about "
            f"{gib(needed)}",
            f"docker run --shm-size={-(-2 * needed // GIB)}g, or --config.data.num_workers=0",
        )
    return Finding("", "ok", f"{found}; reading processes need about {gib(needed)}")


def _cores(facts: LimitFacts) -> Finding:
    usable = min(facts.cores_allowed, facts.cores_quota or facts.cores_allowed)
    found = f"{usable:g} cores usable"
    if usable == facts.cores_of_machine:
        return Finding("", "ok", found)
    why = []
    if facts.cores_allowed < facts.cores_of_machine:
        why.append(f"affinity {facts.cores_allowed}")
    if facts.cores_quota:
        why.append(f"quota of the cgroup {facts.cores_quota:g}")
    return Finding("", "ok", f"{found} of {facts.cores_of_machine} ({', '.join(why)})")


@dataclasses.dataclass(frozen=True)
class MemoryFacts:
    """Bytes of the machine's memory, and of the cgroup's limit (-1 = none) and use."""

    total: int
    available: int
    limit: int
    used_of_limit: int
    prefetch_batches: int = 0
    batch: int = 0


def probe_memory(request: Request, root: Path = Path("/")) -> MemoryFacts:
    config = request.config
    lines = (line.partition(":") for line in _read(root / "proc/meminfo").splitlines())
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines if rest.split()}
    limits = []
    for folder in _cgroups(root, "memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        if limit.isdecimal() and used.isdecimal() and int(limit) < 2**60:
            # The kernel frees the cache of files when memory is needed, so it counts as unused.
            cached = [
                int(line.split()[1])
                for line in _read(folder / "memory.stat").splitlines()
                if line.split()[0] in ("inactive_file", "total_inactive_file")
            ]
            limits.append((int(limit), max(int(used) - max(cached, default=0), 0)))
    limit, used = min(limits, key=lambda pair: pair[0] - pair[1], default=(-1, 0))
    return MemoryFacts(
        total=sizes.get("MemTotal", 0),
        available=sizes.get("MemAvailable", 0),
        limit=limit,
        used_of_limit=used,
        prefetch_batches=config.data.prefetch_batches if config else 0,
        batch=batch_bytes(config) if config else 0,
    )


def free_memory(facts: MemoryFacts) -> int:
    """Bytes that this process may still take, by the machine and by its cgroup."""
    left = facts.limit - facts.used_of_limit
    return facts.available if facts.limit < 0 else min(facts.available, left)


def check_memory(facts: MemoryFacts) -> Finding:
    free = free_memory(facts)
    found = f"{gib(facts.available)} of {gib(facts.total)} available"
    if facts.limit >= 0:
        left = gib(facts.limit - facts.used_of_limit)
        found += f"; the cgroup may use {gib(facts.limit)}, {left} left"
    held = (facts.prefetch_batches + 2) * facts.batch
    if held > free:
        return Finding(
            "memory",
            "bad",
            f"{found}; batches read ahead take {gib(held)}",
            "lower --config.data.prefetch_batches or --config.training.batch_size",
        )
    if free < _LITTLE_MEMORY:
        return Finding(
            "memory",
            "bad" if free < _TOO_LITTLE_MEMORY else "note",
            found,
            "end other programs, or allow the container more: compiling alone takes 1 to 3 GiB",
        )
    return Finding("memory", "ok", found)


@dataclasses.dataclass(frozen=True)
class FolderFacts:
    """A folder that is used. `place`: the nearest folder that exists. Bytes; -1 = not known.

    `error`: why a small file could not be written there; "" if it could, or was not tried
    (`must_write` False, or a quick check). `locks`: True, False, or None if it was not tried.
    """

    use: str
    folder: str
    place: str
    file_system: str
    free: int
    inodes: int
    must_write: bool
    error: str = ""
    locks: bool | None = None
    flush_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class FoldersFacts:
    folders: tuple[FolderFacts, ...]


def probe_folders(request: Request) -> FoldersFacts:
    """Look at the folders that are written to; unless `quick`, write, flush and lock a file there.

    Unless `quick`, it forks, so it must run in a separate process.
    """
    uses = [
        ("compiled programs", cache_folder() or "", True),
        ("temporary files", tempfile.gettempdir(), True),
    ]
    if request.workdir:
        uses.append(("--workdir", request.workdir, True))
    if request.data_dir:
        uses.append(("--data_dir", request.data_dir, False))
    return FoldersFacts(
        tuple(
            folder_facts(use, folder, must_write=must_write, trying=not request.quick)
            for use, folder, must_write in uses
            if folder
        )
    )


def folder_facts(use: str, folder: str, *, must_write: bool, trying: bool) -> FolderFacts:
    place = Path(folder).absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    facts = FolderFacts(use, folder, str(place), _file_system(place), -1, -1, must_write)
    with contextlib.suppress(OSError):
        status = os.statvfs(place)
        facts = dataclasses.replace(
            facts,
            free=status.f_bavail * status.f_frsize,
            # Some file systems create inodes as they are needed, and report none.
            inodes=status.f_favail if status.f_files else -1,
        )
    if not must_write:
        return facts
    if not trying:
        writable = os.access(place, os.W_OK | os.X_OK)
        return facts if writable else dataclasses.replace(facts, error="Permission denied")
    try:
        with tempfile.TemporaryDirectory(prefix=".signvit-doctor-", dir=place) as scratch:
            path = Path(scratch) / "probe"
            start = time.perf_counter()
            write_atomically(path, "a")
            write_atomically(path, "b")
            seconds = time.perf_counter() - start
            kept = path.read_text() == "b"
            return dataclasses.replace(
                facts,
                error="" if kept else "a renamed file has its old content",
                locks=_locks_exclude(path),
                flush_seconds=seconds / 2,
            )
    except OSError as error:
        return dataclasses.replace(facts, error=error.strerror or str(error))


def _locks_exclude(path: Path) -> bool:
    """Return True if another process cannot take a lock that this one holds."""
    with path.open("r+") as mine:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        child = os.fork()  # file servers compare processes, not descriptors
        if child == 0:
            code = 2
            try:
                descriptor = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    code = 1
                except OSError:
                    code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0


def _file_system(place: Path) -> str:
    """The type of the file system of a folder, such as "ext4"; "" if it is not known."""
    longest, kind = -1, ""  # the mount point with the longest path holds the folder
    for line in _read(Path("/proc/self/mounts")).splitlines():
        _, mount, type_of_mount, *_ = line.split(" ")
        point = mount.replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= longest:
            longest, kind = len(point), type_of_mount
    return kind


def check_folders(facts: FoldersFacts) -> Finding:
    return joined("folders", [_check_folder(folder) for folder in facts.folders])


def _check_folder(facts: FolderFacts) -> Finding:
    kind = f", {facts.file_system}" if facts.file_system else ""
    found = f"{facts.use} in {facts.folder}: {gib(facts.free)} free{kind}"
    if facts.error:
        return Finding(
            "",
            "bad",
            f"{found}; cannot be written ({facts.error})",
            f"give another folder for {facts.use}, or the right to write in {facts.place}",
        )
    if facts.must_write and 0 <= facts.free < _LITTLE_DISK:
        level = "bad" if facts.free < _TOO_LITTLE_DISK else "note"
        return Finding("", level, found, f"free some space in {facts.place}")
    if facts.must_write and 0 <= facts.inodes < _FEW_INODES:
        return Finding(
            "", "bad", f"{found}; {facts.inodes} more files", "delete files: inodes run out"
        )
    if facts.locks is False:
        return Finding(
            "",
            "note",
            f"{found}; locks keep no other process out there",
            "take care that one workdir has one trainer; mount NFS with locks (nfsvers=4)",
        )
    if facts.flush_seconds > _SLOW_FLUSH:
        return Finding(
            "",
            "note",
            f"{found}; flushing a small file takes {facts.flush_seconds:.1f} s",
            "checkpoints will be slow there: a disk of this machine is faster",
        )
    if facts.file_system == "tmpfs" and facts.use == "--workdir":
        return Finding(
            "", "note", f"{found}: it is memory, and gone with the machine", "give a disk"
        )
    return Finding("", "ok", found)
