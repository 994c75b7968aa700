"""The file methods of both SSH runners, over one SFTP session.

SFTP has few words for why something failed: "no such file", "permission denied" and "failure". What
"failure" stands for is found out afterwards, by looking at the path or by asking a shell there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import shlex
import socket
import stat
import uuid
from abc import abstractmethod
from typing import TYPE_CHECKING, Callable, TypeVar

from airflow_ensemble.slurm.errors import ClusterError, OutcomeUnknown
from airflow_ensemble.slurm.runner import Entry, Runner

if TYPE_CHECKING:
    import builtins

    import paramiko

T = TypeVar("T")

#: Seconds that one SFTP request may take.
FILE_TIMEOUT = 60.0
#: Requests under way at once when a large file is read; OpenSSH's server takes 64.
_READ_AHEAD = 48
#: Above this many bytes a read is worth several requests at once.
_ONE_REQUEST = 32768
#: What ``find`` prints of each entry: name, size, time and type, each ended by NUL.
_FIND = r"-mindepth 1 -maxdepth 1 -printf '%f\0%s\0%T@\0%y\0'"
#: Reasons that a shell's message may name.
_REASONS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
)


class SshRunner(Runner):
    """What the SSH runners have in common: their files."""

    def __init__(self) -> None:
        self._files: paramiko.SFTPClient | None = None

    @abstractmethod
    def _open_files(self) -> paramiko.SFTPClient:
        """Open an SFTP session; raises what the interface says of connecting."""

    def list(self, folder: str) -> builtins.list[Entry]:
        """See :meth:`Runner.list`."""
        try:
            return self._do(lambda files: _list(files, folder), folder)
        except UnicodeDecodeError:
            # One name that is no UTF-8 stops paramiko in the middle of an answer.
            self._close_files()
        done = self.run(f"find -L {shlex.quote(folder)} {_FIND}", timeout=FILE_TIMEOUT)
        return _parse_found(done.out)

    def stat(self, path: str) -> Entry:
        """See :meth:`Runner.stat`."""
        name = posixpath.basename(path.rstrip("/"))
        return self._do(lambda files: _entry(name, files.stat(path)), path)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Runner.read`."""
        return self._do(lambda files: _read(files, path, offset, length), path)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """See :meth:`Runner.write`."""
        try:
            self._do(lambda files: _write(files, path, data, mode), path)
        except OSError as error:
            raise self._explain_write(error, path, data) from error

    def append(self, path: str, data: bytes) -> None:
        """See :meth:`Runner.append`."""
        try:
            self._do(lambda files: _fill(files, path, "a", data, None), path, again=False)
        except OSError as error:
            raise self._explain_write(error, path, data) from error

    def make_folders(self, path: str) -> None:
        """See :meth:`Runner.make_folders`."""
        self._do(lambda files: _make_folders(files, path), path)

    def rename(self, source: str, target: str) -> None:
        """See :meth:`Runner.rename`."""
        self._do(lambda files: _rename(files, source, target), source, again=False)

    def remove(self, path: str) -> None:
        """See :meth:`Runner.remove`."""
        self._do(lambda files: _remove(files, path), path)

    def _close_files(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            with contextlib.suppress(Exception):
                files.close()

    def _do(
        self, action: Callable[[paramiko.SFTPClient], T], path: str, *, again: bool = True
    ) -> T:
        """Do something with files; what can be done twice is, when the connection was lost before.

        :param again: whether doing it twice is as good as once.
        """
        if again and self._files is not None:
            try:
                return self._do_once(action, path)
            except OutcomeUnknown as error:
                if isinstance(error.__cause__, socket.timeout):
                    raise
                self.close()
        return self._do_once(action, path)

    def _do_once(self, action: Callable[[paramiko.SFTPClient], T], path: str) -> T:
        import paramiko

        if self._files is not None and _is_closed(self._files):
            self.close()
        if self._files is None:
            self._files = self._open_files()
        files = self._files
        try:
            return action(files)
        except (EOFError, paramiko.SSHException, paramiko.SFTPError, socket.timeout) as error:
            self._close_files()
            raise OutcomeUnknown(self._lost(path, error)) from error
        except OSError as error:
            if error.errno is None and _is_closed(files):
                self._close_files()
                raise OutcomeUnknown(self._lost(path, error)) from error
            raise _named(error, path) from error

    def _lost(self, path: str, error: Exception) -> str:
        if isinstance(error, socket.timeout):
            return f"{self.place} did not answer within {FILE_TIMEOUT:g} s about {path}"
        return f"the connection to {self.place} broke in the middle of work on {path}: {error}"

    def _explain_write(self, error: OSError, path: str, data: bytes) -> OSError:
        """Return why a file could not be written, after asking a shell to write as much."""
        if error.errno != errno.EIO:
            return error
        probe = shlex.quote(_aside(path))
        script = f"LC_ALL=C; export LC_ALL; cat >{probe}; code=$?; rm -f {probe}; exit $code"
        try:
            done = self.run(script, input=data)
        except ClusterError:
            return error
        if done.code == 0:
            return error
        return OSError(_reason(done.err), done.err.strip() or error.strerror, path)


def _list(files: paramiko.SFTPClient, folder: str) -> list[Entry]:
    try:
        found = files.listdir_attr(folder)
    except FileNotFoundError:
        files.stat(folder)
        raise NotADirectoryError(errno.ENOTDIR, "") from None
    entries = []
    for attributes in found:
        name = attributes.filename
        # Listings show links themselves; a link may lead nowhere.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(attributes.st_mode or 0):
                attributes = files.stat(posixpath.join(folder, name))
            entries.append(_entry(name, attributes))
    return entries


def _parse_found(text: str) -> list[Entry]:
    """Read what ``find`` printed; links that lead nowhere are left out."""
    fields = text.split("\0")[:-1]
    rows = zip(fields[::4], fields[1::4], fields[2::4], fields[3::4])
    return [
        Entry(name, int(size), float(modified), kind == "d")
        for name, size, modified, kind in rows
        if kind != "l"
    ]


def _entry(name: str, attributes: paramiko.SFTPAttributes) -> Entry:
    is_folder = stat.S_ISDIR(attributes.st_mode or 0)
    return Entry(name, attributes.st_size or 0, float(attributes.st_mtime or 0), is_folder)


def _read(files: paramiko.SFTPClient, path: str, offset: int, length: int | None) -> bytes:
    with files.open(path, "r") as stream:
        attributes = stream.stat()
        if stat.S_ISDIR(attributes.st_mode or 0):
            raise IsADirectoryError(errno.EISDIR, "")
        rest = max((attributes.st_size or 0) - offset, 0)
        wanted = rest if length is None else min(rest, length)
        if wanted > _ONE_REQUEST:
            return b"".join(stream.readv([(offset, wanted)], _READ_AHEAD))
        stream.seek(offset)
        return stream.read(wanted)


def _write(files: paramiko.SFTPClient, path: str, data: bytes, mode: int) -> None:
    aside = _aside(path)
    try:
        _fill(files, aside, "wx", data, mode)
        files.posix_rename(aside, path)
    except OSError:
        with contextlib.suppress(Exception):
            files.remove(aside)
        raise


def _fill(files: paramiko.SFTPClient, path: str, how: str, data: bytes, mode: int | None) -> None:
    """Write into a file that is opened for it, and make sure that all of it arrived.

    :param how: mode of opening.
    :param mode: permissions of a new file before the account's umask; None leaves them.
    """
    from paramiko.sftp import CMD_CLOSE

    with files.open(path, how) as stream:
        before = stream.stat()
        if mode is not None:
            _set_mode(stream, before.st_mode or 0, mode)
        # Pipelined requests are many times faster, but nobody hears when one of them fails: the
        # size tells. Closing does it again, because network file systems refuse only then.
        stream.set_pipelined(True)
        stream.write(data)
        after = stream.stat()
        expected = len(data) if how != "a" else (before.st_size or 0) + len(data)
        if (after.st_size or 0) < expected:
            raise OSError("Failure")
        files._request(CMD_CLOSE, stream.handle)  # type: ignore[attr-defined]


def _set_mode(stream: paramiko.SFTPFile, found: int, wanted: int) -> None:
    """Give a new file its permissions, as far as the umask that shows in it allows them."""
    allowed = stat.S_IMODE(found) | ((found & 0o444) >> 2)
    if wanted & allowed != stat.S_IMODE(found):
        stream.chmod(wanted & allowed)


def _make_folders(files: paramiko.SFTPClient, path: str) -> None:
    path = path.rstrip("/") or "/"
    try:
        _make_folder(files, path)
    except FileNotFoundError:
        above = posixpath.dirname(path)
        if above in ("", path):
            raise
        _make_folders(files, above)
        _make_folder(files, path)


def _make_folder(files: paramiko.SFTPClient, path: str) -> None:
    try:
        files.mkdir(path)
    except FileNotFoundError:
        raise
    except OSError:
        if _is_folder(files, path) is None:
            raise
        if not stat.S_ISDIR(files.stat(path).st_mode or 0):
            raise FileExistsError(errno.EEXIST, "") from None


def _rename(files: paramiko.SFTPClient, source: str, target: str) -> None:
    try:
        files.rename(source, target)
    except OSError as error:
        if error.errno is None and _is_folder(files, target) is not None:
            raise FileExistsError(errno.EEXIST, "", target) from None
        raise


def _remove(files: paramiko.SFTPClient, path: str) -> None:
    try:
        files.remove(path)
    except FileNotFoundError:
        return
    except OSError:
        if _is_folder(files, path):
            raise IsADirectoryError(errno.EISDIR, "") from None
        raise


def _is_folder(files: paramiko.SFTPClient, path: str) -> bool | None:
    """Return whether a path is a folder itself, not a link to one; None when there is nothing."""
    try:
        return stat.S_ISDIR(files.lstat(path).st_mode or 0)
    except FileNotFoundError:
        return None


def _aside(path: str) -> str:
    return f"{posixpath.dirname(path)}/.{uuid.uuid4().hex}.tmp"


def _is_closed(files: paramiko.SFTPClient) -> bool:
    channel = files.get_channel()
    return channel is None or channel.closed


def _named(error: OSError, path: str) -> OSError:
    """Return an error with errno, reason and path; SFTP's "failure" becomes EIO."""
    code = error.errno or errno.EIO
    reason = os.strerror(code) if error.errno else f"the server said only {str(error)!r}"
    return OSError(code, reason, error.filename or path)


def _reason(text: str) -> int:
    for code in _REASONS:
        if os.strerror(code) in text:
            return code
    return errno.EIO
