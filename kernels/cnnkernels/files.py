"""Writing of files that the user names: atomic for regular files, direct for streams.

A regular file is written under a temporary name beside its target, then replaces it and keeps its
permissions. A symbolic link stays, and the file it points to is replaced; other hard links to the
old file keep the old content. A stream is written to directly: a pipe, a terminal or another
character device, or a file that is already open, such as /dev/stdout.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

NAME_ANOTHER = "name a folder that can be written, or make this one writable"
"""The advice if a folder is not writable."""

_MOST_LINKS = 40
"""Maximum number of links to follow, as in Linux."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Python's stand-in for a byte of a name that is not UTF-8; UTF-8 cannot encode it."""


class WriteError(OSError):
    """A file cannot be written; the message names it and the reason in one sentence."""


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a regular file atomically, or write to a stream.

    Writing to a pipe waits for a reader.

    Parameters
    ----------
    path : path
        The file.
    content : str or bytes
        Text is encoded as UTF-8, with replacement characters for lone surrogates.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    if isinstance(content, str):
        content = _LONE_SURROGATE.sub("\ufffd", content).encode()
    with writing(path):
        if is_stream(path):
            with open(_open_stream(path), "wb") as stream:
                stream.write(content)
        else:
            _replace(_regular(path), content)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Check, as far as possible in advance, that a file can be written; create its folder.

    Nothing is written, and a pipe is not opened, so this never waits.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    with writing(path, NAME_ANOTHER):
        number = _number_of_open_file(path)
        if number is not None:
            try:
                os.write(number, b"")
            except OSError:
                raise _refusal(path, "it is closed, or open for reading only") from None
        elif os.path.exists(path) and not os.access(path, os.W_OK):
            raise _refusal(path, "it is read-only")
        elif not is_stream(path):
            file = _regular(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            probe = _beside(file)
            probe.touch(exist_ok=False)
            probe.unlink()


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a stream: a pipe, a character device, or an open file."""
    if _number_of_open_file(path) is not None:
        return True
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return False


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Convert an OSError in the block into a WriteError with the path and some advice."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refusal(path, f"{reason}; {advice}" if advice else reason) from None


def _refusal(path: str | os.PathLike[str], reason: str) -> WriteError:
    return WriteError(f"{path}: cannot be written: {reason}")


def _regular(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path points to through links; it need not exist."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise _refusal(path, "expected a file to write to, and it is a folder")
        if not stat.S_ISREG(mode):
            raise _refusal(path, "expected a file, a pipe or a terminal; it is a socket or a disk")
    return Path(os.path.realpath(path))


def _number_of_open_file(path: str | os.PathLike[str]) -> int | None:
    """Return the descriptor of the open file behind a path such as /dev/stdout or /dev/fd/3.

    The path must not be opened again: if output is redirected to a file, that would write from its
    beginning, over earlier output.
    """
    numbers = os.path.realpath("/dev/fd")
    current = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(current)
        if name.isdecimal() and os.path.realpath(folder) == numbers:
            return int(name)
        try:
            current = os.path.join(folder, os.readlink(current))
        except OSError:
            return None
    return None


def _open_stream(path: str | os.PathLike[str]) -> int:
    number = _number_of_open_file(path)
    return os.open(path, os.O_WRONLY) if number is None else os.dup(number)


def _beside(file: Path) -> Path:
    """Return a new name in the folder of a file."""
    return file.with_name(f".{secrets.token_hex(8)}.partial")


def _replace(file: Path, content: bytes) -> None:
    """Replace a file by a new one, with the same permissions and owner."""
    try:
        old = file.stat()
    except FileNotFoundError:
        old = None

    def opener(name: str, flags: int) -> int:
        # The new file must never be readable for users who cannot read the old one.
        return os.open(name, flags, 0o666 if old is None else 0o600)

    partial = _beside(file)
    try:
        with open(partial, "xb", opener=opener) as new:
            new.write(content)
        if old is not None:
            with contextlib.suppress(OSError):  # only root may give files away
                os.chown(partial, old.st_uid, old.st_gid)
            partial.chmod(stat.S_IMODE(old.st_mode))
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
