"""Files are replaced atomically, links stay, and streams are written to directly."""

import os
import socket
import stat

import pytest

from cnnkernels import files
from cnnkernels.files import WriteError


def kind(path):
    return stat.S_IFMT(os.lstat(path).st_mode)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# --------------------------------------------------------------------------------------------
# files


@pytest.mark.parametrize("content", ["text µ\n", b"\x00\xff bytes"])
def test_a_new_file_has_the_content_and_the_permissions_of_the_mask(tmp_path, content):
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "new", content)
    finally:
        os.umask(before)
    raw = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "new").read_bytes() == raw
    assert mode(tmp_path / "new") == 0o640
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("permissions", [0o600, 0o664, 0o755])
def test_a_file_that_is_replaced_keeps_its_permissions_and_its_owner(tmp_path, permissions):
    path = tmp_path / "file"
    path.write_text("the old one, which is longer")
    path.chmod(permissions)
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    before = os.stat(path)
    files.write(path, "new")
    after = os.stat(path)
    assert path.read_text() == "new"
    assert mode(path) == permissions
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "replaced whole, not written over"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_ends_a_write_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path, monkeypatch, error
):
    path = tmp_path / "file"
    path.write_text("old")

    def ending(*_):
        raise error

    monkeypatch.setattr("pathlib.Path.replace", ending)
    with pytest.raises((WriteError, KeyboardInterrupt)):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_names_may_be_as_long_as_names_can_be_and_need_not_be_utf_8(tmp_path):
    for name in (b"x" * 255, b"caf\xe9"):
        path = tmp_path / os.fsdecode(name)
        files.require_writable(path)
        files.write(path, "new")
        assert path.read_text() == "new"


def test_what_was_not_utf_8_in_a_text_is_shown_as_replaced(tmp_path):
    files.write(tmp_path / "page", "of " + os.fsdecode(b"caf\xe9") + " and \ud800")
    assert (tmp_path / "page").read_text("utf-8") == "of caf\ufffd and \ufffd"


# --------------------------------------------------------------------------------------------
# links


@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "dangling"])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, exists):
    target, link, to_link = (tmp_path / name for name in ("deep/target", "link", "other"))
    link.symlink_to("deep/target")
    to_link.symlink_to(link)
    if exists:
        target.parent.mkdir()
        target.write_text("old")
        target.chmod(0o600)
    for path, content in ((link, "one"), (to_link, "two")):
        files.require_writable(path)
        files.write(path, content)
        assert target.read_text() == content
    assert kind(link) == kind(to_link) == stat.S_IFLNK
    assert kind(target) == stat.S_IFREG
    if exists:
        assert mode(target) == 0o600
    assert os.listdir(target.parent) == ["target"]


# --------------------------------------------------------------------------------------------
# streams


def test_a_pipe_stays_and_its_reader_gets_everything(pipe):
    path, got = pipe
    files.require_writable(path)
    assert files.is_stream(path)
    assert got() == b""
    files.write(path, "text")
    assert got() == b"text"
    assert kind(path) == stat.S_IFIFO
    assert os.listdir(path.parent) == ["pipe"]


def test_a_link_to_a_pipe_is_a_pipe(pipe, tmp_path):
    path, got = pipe
    (tmp_path / "link").symlink_to("pipe")
    files.require_writable(tmp_path / "link")
    files.write(tmp_path / "link", b"bytes")
    assert got() == b"bytes"
    assert kind(tmp_path / "link") == stat.S_IFLNK
    assert kind(path) == stat.S_IFIFO


def test_nobody_waits_for_a_pipes_reader_to_learn_that_it_can_be_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    files.require_writable(tmp_path / "pipe")  # opening it would wait for ever
    assert kind(tmp_path / "pipe") == stat.S_IFIFO


def test_a_terminal_is_written_to():
    terminal, named = os.openpty()
    path = os.ttyname(named)
    try:
        files.require_writable(path)
        files.write(path, "text")
        assert os.read(terminal, 100) == b"text"
        assert kind(path) == stat.S_IFCHR
    finally:
        os.close(terminal)
        os.close(named)


def test_a_device_stays_a_device(tmp_path):
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
        files.write(path, "text")
    except PermissionError:
        pytest.skip("only root may make devices, and not everywhere")
    files.require_writable(path)
    assert kind(path) == stat.S_IFCHR
    assert os.listdir(tmp_path) == ["null"]


def test_what_output_was_redirected_to_keeps_what_was_printed_before_and_after(tmp_path, python):
    out = tmp_path / "out"
    python(
        "import os\n"
        "from cnnkernels import files\n"
        f"os.dup2(os.open({str(out)!r}, os.O_WRONLY | os.O_CREAT), 1)\n"
        "os.symlink('/dev/fd/1', 'stdout')\n"  # which is what /dev/stdout is
        "os.symlink('stdout', 'link')\n"
        "for path in 'stdout', '/dev/fd/1', 'link':\n"
        "    print('before', flush=True)\n"
        "    files.require_writable(path)\n"
        "    files.write(path, path + '\\n')\n"
        "print('after')"
    )
    lines = ["before", "stdout", "before", "/dev/fd/1", "before", "link", "after"]
    assert out.read_text().splitlines() == lines
    assert kind(tmp_path / "link") == stat.S_IFLNK


def test_a_reader_that_has_gone_is_one_sentence():
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(WriteError, match=f"/dev/fd/{writer}: cannot be written: Broken pipe"):
        files.write(f"/dev/fd/{writer}", "text")
    os.close(writer)


# --------------------------------------------------------------------------------------------
# neither file nor stream


def test_what_can_be_no_file_is_one_sentence_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "down").symlink_to("folder")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    before = sorted(os.listdir(tmp_path))
    for name, reason in (
        ("folder", "expected a file to write to, and it is a folder"),
        ("down", "expected a file to write to, and it is a folder"),
        ("socket", "expected a file, a pipe or a terminal; it is a socket or a disk"),
        ("loop", "Too many levels of symbolic links"),
        ("file/below", "Not a directory"),
    ):
        for refusing in (files.require_writable, lambda path: files.write(path, "text")):
            with pytest.raises(WriteError, match=f"/{name}: cannot be written: {reason}"):
                refusing(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert kind(tmp_path / "socket") == stat.S_IFSOCK


def test_an_open_file_that_is_closed_or_only_read_is_refused_beforehand():
    reader, writer = os.pipe()
    with pytest.raises(WriteError, match="it is closed, or open for reading only"):
        files.require_writable(f"/dev/fd/{reader}")
    os.close(reader)
    os.close(writer)
    with pytest.raises(WriteError, match="it is closed, or open for reading only"):
        files.require_writable(f"/dev/fd/{writer}")


def test_a_file_that_may_only_be_read_is_refused_beforehand(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "access", lambda _, asked: asked != os.W_OK)  # root may do anything
    with pytest.raises(WriteError, match="file: cannot be written: it is read-only"):
        files.require_writable(tmp_path / "file")
    files.require_writable(tmp_path / "new")
