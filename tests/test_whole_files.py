"""Files and engine files are whole, old or new, whatever fails and whenever a writer is killed."""

import errno
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from files import check_file, check_writable, locked, replacing, write_whole
from runtime.artifacts import FILE, Manifest, read, save

MANIFEST = Manifest({"backend": "inductor"}, "python -m build")
FULL = OSError(28, "No space left on device")
# Where a disk can be full: each call of each of these may be the one that fails.
OPERATIONS: list[tuple[Any, str]] = [
    *((os, name) for name in ("replace", "fsync", "fstat")),
    *((Path, name) for name in ("mkdir", "open", "chmod")),
    (tempfile, "mkstemp"),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """Run `work` in a child process, and kill it at the end of the block."""
    if (process := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(1)  # the child must not continue with the tests
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def save_for_ever(folder: Path, seed: int) -> None:
    for number in count(seed):
        save(folder, bytes([number % 256]) * (1 + number * 7919 % 100_000), MANIFEST)


def test_killed_writers_are_not_noticed_by_readers(tmp_path: Path) -> None:
    """Read while two processes save; kill both at a random moment after their first file, thirty times."""
    folder, moments = tmp_path / "key", random.Random(0)
    save(folder, b"first", MANIFEST)
    seen: set[bytes] = set()
    for seed in range(30):
        before = read(folder, MANIFEST)
        with child(lambda: save_for_ever(folder, seed)), child(lambda: save_for_ever(folder, seed + 100)):  # noqa: B023
            end = time.monotonic() + moments.uniform(0.005, 0.05)
            last = end + 60  # where saving takes long
            while time.monotonic() < end or (seen <= {before} and time.monotonic() < last):
                seen.add(read(folder, MANIFEST))  # also compares size and checksum with those in the manifest
        assert seen - {before}, "the writers were killed before they saved anything"
        assert read(folder, MANIFEST)
        seen.clear()
    save(folder, b"last", MANIFEST)
    assert read(folder, MANIFEST) == b"last"
    assert names(folder) == [FILE]


class Failing:
    """Makes call number `which` of all OPERATIONS fail, counted from 0."""

    def __init__(self, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.failed = which, False
        for owner, name in OPERATIONS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0 and not self.failed:
                self.failed = True
                raise FULL
            return function(*arguments, **options)

        return call


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_at_every_operation(tmp_path: Path, there: bool) -> None:
    for which in count():
        folder = tmp_path / str(which)
        if there:
            save(folder, b"old", MANIFEST)
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(which, patch)
            try:
                save(folder, b"new", MANIFEST)
            except OSError as error:
                assert str(error) == (  # noqa: PT017
                    f"{folder / FILE} cannot be written (No space left on device); "
                    "free some space there, or choose another disk"
                )
                assert failing.failed
        if not failing.failed:
            break
        if there:
            assert read(folder, MANIFEST) == b"old"
        if folder.exists():
            assert names(folder) == [FILE] * there
    assert which == len(OPERATIONS), "an operation was not called"
    assert read(folder, MANIFEST) == b"new"


def test_a_write_that_fails_half_way(tmp_path: Path) -> None:
    """The system's limit on the size of a file fails as a full disk does: after some bytes."""
    save(tmp_path, b"old", MANIFEST)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written \(File too large\)"):
            save(tmp_path, b"n" * 100_000, MANIFEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(tmp_path, MANIFEST) == b"old"
    assert names(tmp_path) == [FILE]


def test_ctrl_c_half_way(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as temporary:  # noqa: PT012
        temporary.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_next_write_removes_what_killed_ones_left(tmp_path: Path) -> None:
    def half(name: str) -> None:
        with replacing(tmp_path / name) as temporary:
            temporary.write_bytes(b"half")
            time.sleep(60)

    for name in ("a", "a.b", "a[b]*"):
        with child(lambda: half(name)):  # noqa: B023
            wait_for(lambda: any(path.read_bytes() == b"half" for path in tmp_path.glob("*.tmp")))
        (left,) = tmp_path.glob(".*.tmp")
        (tmp_path / f".{name}.original").write_bytes(b"the user's")
        write_whole(tmp_path / "other", b"")
        assert left.exists(), "a leftover of another file"
        write_whole(tmp_path / name, b"whole")
        assert not left.exists()
        assert (tmp_path / f".{name}.original").exists()


def test_the_temporary_file_of_a_live_writer_is_kept(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as slow:
        slow.write_bytes(b"slow")
        write_whole(tmp_path / "file", b"quick")
        assert slow.exists()
    assert (tmp_path / "file").read_bytes() == b"slow", "the last to finish"
    assert names(tmp_path) == ["file"]


def wait_for(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("ENOSPC", r"free some space there, or choose another disk"),
        ("EDQUOT", r"free some space there, or choose another disk"),
        ("EROFS", "choose a folder that you may write to"),
        ("EACCES", "choose a folder that you may write to"),
    ],
)
def test_the_remedy_fits_the_reason(code: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", failing)
    monkeypatch.setattr(tempfile, "TemporaryFile", failing)
    for call in (lambda path: write_whole(path, b""), check_file, check_writable):
        with pytest.raises(OSError, match=rf"^{tmp_path / 'one'} cannot be written \(.+\); {remedy}$"):
            call(tmp_path / "one")


def test_paths_that_can_hold_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "pipe").touch()
    (tmp_path / "pipe").unlink()
    os.mkfifo(tmp_path / "pipe")
    in_the_way = r"\(Not a directory\); a file is in its place or above it: choose another folder$"
    for check, name, message in (
        (check_writable, "file", in_the_way),
        (check_writable, "file/below/it", in_the_way),
        (check_file, "file/one", in_the_way),
        (check_file, "folder", r"\(it is a folder\); choose the name of a file$"),
        (check_file, "pipe", r"\(it is a device or pipe\); choose the name of a file$"),
        (check_file, "n" * 300, r"\(File name too long\); choose a shorter name$"),
    ):
        with pytest.raises(OSError, match=rf"^{tmp_path / name} cannot be written {message}"):
            check(tmp_path / name)
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    check_file(tmp_path / "file")
    check_writable(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_lock_is_held_by_one_process_and_names_it(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"

    def hold() -> None:
        with locked(lock, "stop it"):
            (tmp_path / "held").touch()
            time.sleep(60)

    with child(hold) as process:
        wait_for((tmp_path / "held").exists)
        with (
            pytest.raises(OSError, match=rf"^{lock} is locked by process {process} on .+: wait .+, or choose more$"),
            locked(lock, "choose more"),
        ):
            pass
    assert lock.exists(), "the process was killed"
    with locked(lock, "stop it"):
        assert lock.read_text().startswith(f"process {os.getpid()} on")
    assert not lock.exists()


def test_without_locks_a_log_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", failing)
    with locked(tmp_path / ".lock", "stop it"):
        write_whole(tmp_path / "file", b"")
    assert names(tmp_path) == ["file"]
    assert caplog.messages == [
        f"{tmp_path / '.lock'} cannot be locked (Operation not supported): start nothing else that writes there"
    ]
