"""Files that a person names are written here: whole or not at all, and never in place of a device.

A regular file, or a new name, is replaced by a whole file that was written beside it. It keeps its
permissions. A symbolic link stays, and the file that it leads to is replaced; other hard links to
the old file keep the old content. A stream has no old content to keep, so that it is written to
directly: a pipe, a terminal or another character device, or a file that is open already and has a
name even so, such as /dev/stdout.
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
"""What to do where a folder is the reason."""

_MOST_LINKS = 40
"""As many links in a row are followed as Linux follows."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python has in a name for a byte that is not UTF-8, and what UTF-8 cannot encode."""


class WriteError(OSError):
    """A file that cannot be written; the message is one sentence that names it and says why."""


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, whole or not at all; a stream is written to.

    Writing to a pipe waits until somebody reads it, as it does in every program.

    Parameters
    ----------
    path : path
    content : str or bytes
        Text is encoded as UTF-8, with replacement characters for parts of names that were not.

    Raises
    ------
    WriteError
        If it cannot be written.
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
    """Make sure, as far as that shows beforehand, that a file can be written; make its folder.

    This writes nothing and waits for nobody: a pipe is not opened.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    with writing(path, NAME_ANOTHER):
        number = _number_of_open_file(path)
        if number is not None:
            try:
                os.write(number, b"")
            except OSError:
                raise _refusal(path, "it is closed, or open for reading only") from None
        elif os.path.exists(path) and not os.access(path, os.W_OK):
            raise _refusal(path, "it may only be read")
        elif not is_stream(path):
            file = _regular(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            probe = _beside(file)
            probe.touch(exist_ok=False)
            probe.unlink()


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is written to directly: a pipe, a device, or a file that is open."""
    if _number_of_open_file(path) is not None:
        return True
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return False


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a WriteError that names the path, and says what to do."""
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
    """Return the file that a path leads to, through links, whether it exists or not."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise _refusal(path, "expected a file to write to, and it is a folder")
        if not stat.S_ISREG(mode):
            raise _refusal(path, "expected a file, a pipe or a terminal; it is a socket or a disk")
    return Path(os.path.realpath(path))


def _number_of_open_file(path: str | os.PathLike[str]) -> int | None:
    """Return the number of the open file that a path such as /dev/stdout or /dev/fd/3 names.

    Opened a second time by its name, a file that output was redirected to would be written from
    its beginning, over what was printed before.
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
    """Put a new file in the place of a file, with its permissions and its owner."""
    try:
        old = file.stat()
    except FileNotFoundError:
        old = None

    def opener(name: str, flags: int) -> int:
        # Nobody may read the new file who may not read the old one, not even for a moment.
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
