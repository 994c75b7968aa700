"""How a connection of paramiko's comes about: dialling, jumping, host keys, logging in.

Every refusal becomes an error that says what the site answered and what to change. Servers that
turn new connections away for a moment (OpenSSH's ``MaxStartups``) are asked again, a bounded number
of times and at random moments, so that many processes do not come back together.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import logging
import random
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.errors import AccessRefused, Unreachable
from airflow_ensemble.slurm.host_keys import (
    KnownKey,
    PublicKey,
    find_keys,
    host_name,
    is_trusted,
    parse_known_hosts,
)
from airflow_ensemble.slurm.ssh_keys import keys_to_try

if TYPE_CHECKING:
    import paramiko

    from airflow_ensemble.slurm.login import Login

log = logging.getLogger(__name__)

KEEPALIVE = 30
#: Seconds after which data that nobody acknowledges ends the connection.
_DEAD_AFTER = 90
ATTEMPTS = 8
#: Seconds, on average, before the second try; each further one doubles it.
FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0
SYSTEM_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")

_HOP = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^\]\s]+\]|[^:@\s]+)(?::(?P<port>\d{1,5}))?")
#: paramiko's own log, which tells with tracebacks what our errors tell in words.
_PARAMIKO_LOG = "airflow_ensemble.slurm.paramiko"


class _TurnedAway(Unreachable):
    """The server closed a new connection before it said anything: it may have too many."""


@dataclass(frozen=True)
class Hop:
    """A host on the way, the cluster's own last.

    :param user: account there.
    :param host: name or address.
    :param port: of its SSH server.
    """

    user: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """Return ``user@host``, with the port where it is not the usual one."""
        return f"{self.user}@{self.host}" + ("" if self.port == 22 else f":{self.port}")


class SshConnection:
    """A connection that is logged in, with those that it goes through.

    :param transports: paramiko's, the cluster's own last.
    """

    def __init__(self, transports: Sequence[paramiko.Transport]) -> None:
        self._transports = tuple(transports)

    @property
    def transport(self) -> paramiko.Transport:
        """Return the transport to the cluster."""
        return self._transports[-1]

    @property
    def is_alive(self) -> bool:
        """Return whether, as far as this side knows, the connection stands."""
        return self.transport.is_active()

    def close(self) -> None:
        """Close everything."""
        _close(self._transports)


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UsageError(
            "the connection names no user, and the account here has no name either (no entry in "
            "passwd, and USER is not set): give the connection a login"
        ) from None


def route(login: Login) -> tuple[Hop, ...]:
    """Return the hosts to go through, the cluster's own last.

    :raises UsageError: when ``proxy_jump`` cannot be read.
    """
    user = login.user or _own_name()
    hops = []
    for word in (login.proxy_jump or "").split(","):
        if not word.strip():
            continue
        match = _HOP.fullmatch(word.strip())
        if not match:
            raise UsageError(
                f"proxy_jump {word.strip()!r} is not of the form [user@]host[:port], several "
                "separated by commas"
            )
        host = match["host"].strip("[]")
        hops.append(Hop(match["user"] or user, host, int(match["port"] or 22)))
    hops.append(Hop(user, login.host or "", login.port))
    for word in (word for hop in hops for word in (hop.user, hop.host)):
        # One that begins with a dash would be an option of the system's ssh.
        if not word.isprintable() or word.startswith("-") or " " in word:
            raise UsageError(f"{word!r} is no name of a user or a host")
    return tuple(hops)


def connect(hops: Sequence[Hop], login: Login) -> SshConnection:
    """Connect through the hops and log in at each.

    :raises Unreachable: when a host does not answer, or goes on turning us away.
    :raises AccessRefused: when a host is not the one it should be, or does not let us in.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return _connect_once(hops, login)
        except _TurnedAway as error:
            longest = min(FIRST_DELAY * 2**attempt, LONGEST_DELAY)
            delay = random.uniform(0.25, 1.0) * longest
            log.warning("%s; try %d of %d in %.1f s", error, attempt + 1, ATTEMPTS, delay)
            time.sleep(delay)
    return _connect_once(hops, login)


def _connect_once(hops: Sequence[Hop], login: Login) -> SshConnection:
    known = _given_keys(login)
    transports: list[paramiko.Transport] = []
    try:
        for hop in hops:
            line = _dial(hop, login) if not transports else _jump(transports[-1], hops, hop, login)
            transports.append(_negotiate(line, hop, login, known))
            _authenticate(transports[-1], hop, login)
    except BaseException:
        _close(transports)
        raise
    return SshConnection(transports)


def _close(transports: Sequence[paramiko.Transport]) -> None:
    for transport in reversed(transports):
        with contextlib.suppress(Exception):
            transport.close()


# --- reaching a host ------------------------------------------------------------------------------


def _dial(hop: Hop, login: Login) -> socket.socket:
    address = f"{hop.host}, port {hop.port}"
    try:
        line = socket.create_connection((hop.host, hop.port), timeout=login.connect_timeout)
    except (socket.gaierror, UnicodeError) as error:
        raise Unreachable(
            f"the host name {hop.host!r} is unknown here ({error}): check its spelling in "
            "the connection, and this machine's name service"
        ) from error
    except ConnectionRefusedError as error:
        raise Unreachable(
            f"nothing listens at {address} (connection refused): check the port, and that the "
            "login node is up"
        ) from error
    except socket.timeout as error:
        raise Unreachable(
            f"{address} does not answer within {login.connect_timeout:g} s: check host and port, "
            "and whether a firewall or a VPN is in between"
        ) from error
    except OSError as error:
        raise Unreachable(f"{address} cannot be reached: {error.strerror or error}") from error
    # Small requests wait for nothing: without this, each costs some 40 ms more.
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _notice_death(line)
    return line


def _notice_death(line: socket.socket) -> None:
    """Let the operating system end a connection whose other end is gone without a word."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE),
        ("TCP_KEEPINTVL", KEEPALIVE // 3),
        ("TCP_KEEPCNT", 6),
        ("TCP_USER_TIMEOUT", 1000 * _DEAD_AFTER),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):
                line.setsockopt(socket.IPPROTO_TCP, option, value)


def _jump(
    transport: paramiko.Transport, hops: Sequence[Hop], hop: Hop, login: Login
) -> paramiko.Channel:
    import paramiko

    before = hops[list(hops).index(hop) - 1].name
    try:
        return transport.open_channel(
            "direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=login.connect_timeout
        )
    except paramiko.ChannelException as error:
        raise Unreachable(
            f"the jump host {before} could not reach {hop.host}, port {hop.port}: {error.text}. "
            "Check host and port as they are seen from there, and that it allows forwarding"
        ) from error
    except (EOFError, OSError, paramiko.SSHException) as error:
        raise Unreachable(
            f"the jump host {before} did not open the way to {hop.host}: {error}"
        ) from error


def _negotiate(line: Any, hop: Hop, login: Login, given: Sequence[KnownKey]) -> paramiko.Transport:
    """Agree on keys with a host, and see that it is the one that it should be."""
    import paramiko

    known = find_keys(given, hop.host, hop.port) or _filed_keys(login, hop)
    transport = paramiko.Transport(line)
    try:
        _prefer(transport, known)
        _set_up(transport, login)
        _start(transport, hop, login)
        if login.verify_host_key:
            shown = transport.get_remote_server_key()
            _check_host(PublicKey(shown.get_name(), shown.asbytes()), known, hop)
        else:
            log.warning("the host key of %s is not verified, as the connection says", hop.host)
        transport.set_keepalive(KEEPALIVE)
    except BaseException:
        transport.close()
        raise
    return transport


def _set_up(transport: paramiko.Transport, login: Login) -> None:
    logging.getLogger(_PARAMIKO_LOG).setLevel(logging.CRITICAL)
    transport.set_log_channel(_PARAMIKO_LOG)
    transport.banner_timeout = login.connect_timeout
    transport.handshake_timeout = login.connect_timeout
    transport.auth_timeout = 2 * login.connect_timeout
    transport.channel_timeout = login.connect_timeout


def _prefer(transport: paramiko.Transport, known: Sequence[KnownKey]) -> None:
    """Ask for a host key of a type that is known here; a host has several."""
    types = {line.key.type for line in known if line.key}
    if "ssh-rsa" in types:
        types |= {"rsa-sha2-512", "rsa-sha2-256"}
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda name: name not in types)


def _start(transport: paramiko.Transport, hop: Hop, login: Login) -> None:
    import paramiko
    from paramiko.ssh_exception import IncompatiblePeer

    begin = time.monotonic()
    try:
        transport.start_client(timeout=2 * login.connect_timeout)
    except IncompatiblePeer as error:
        raise AccessRefused(
            f"{hop.host} and this machine have no common way to encrypt: {error}"
        ) from error
    except (EOFError, OSError, paramiko.SSHException) as error:
        message = (
            f"{hop.host}, port {hop.port} did not greet as an SSH server "
            f"({error or 'it closed the connection'}): "
        )
        if time.monotonic() - begin >= login.connect_timeout:
            raise Unreachable(message + "nothing came in time; check host and port") from error
        raise _TurnedAway(
            message + "it may have too many new connections at once (MaxStartups), or be another "
            "kind of server"
        ) from error
    if not transport.is_active() or not transport.initial_kex_done:
        raise Unreachable(f"{hop.host} did not finish the key exchange in time")


# --- who the host is ------------------------------------------------------------------------------


def _given_keys(login: Login) -> list[KnownKey]:
    if not login.host_key:
        return []
    known = parse_known_hosts(login.host_key)
    if not known and login.verify_host_key:
        raise AccessRefused(
            "the connection's host key cannot be read: write a public key (ssh-ed25519 AAAA…), "
            "lines as `ssh-keyscan` prints them, or a fingerprint (SHA256:…)"
        )
    # Keys without a name are those of the cluster itself, not of a jump host.
    name = host_name(login.host or "", login.port)
    return [line if line.names else _with_name(line, name) for line in known]


def _with_name(line: KnownKey, name: str) -> KnownKey:
    return KnownKey((name,), line.key, line.fingerprint, line.is_revoked)


def _filed_keys(login: Login, hop: Hop) -> list[KnownKey]:
    files = (login.known_hosts,) if login.known_hosts else SYSTEM_KNOWN_HOSTS
    known: list[KnownKey] = []
    for name in files:
        path = Path(name).expanduser()
        try:
            lines = parse_known_hosts(path.read_text("utf-8", "replace"))
        except OSError as error:
            if login.known_hosts:
                raise AccessRefused(
                    f"the known_hosts file {path} cannot be read: {error.strerror}"
                ) from error
            continue
        known += [line for line in lines if line.names]
    return find_keys(known, hop.host, hop.port)


def _check_host(shown: PublicKey, known: Sequence[KnownKey], hop: Hop) -> None:
    """Refuse a host whose key is not known, or is another one."""
    if is_trusted(known, shown):
        return
    name = f"{hop.host}, port {hop.port},"
    if any(line.fingerprint == shown.fingerprint for line in known):
        raise AccessRefused(
            f"{name} shows a host key that is marked as revoked ({shown.fingerprint}): do not log "
            "in there; ask the site which key it uses now"
        )
    if known:
        expected = " or ".join(sorted({_describe(line) for line in known}))
        raise AccessRefused(
            f"{name} shows ANOTHER host key than it should: {shown.type} {shown.fingerprint}, not "
            f"{expected}. Either the site has changed it, or somebody is in between: ask the site. "
            f"If the new one is right, enter it as the connection's host key: {shown.text}"
        )
    raise AccessRefused(
        f"{name} shows a host key that is not known here: {shown.type} {shown.fingerprint}. "
        "Compare that fingerprint with what the site publishes; if it is right, enter this as the "
        f"connection's host key: {shown.text}"
    )


def _describe(line: KnownKey) -> str:
    return f"{line.key.type} {line.fingerprint}" if line.key else line.fingerprint


# --- who we are -----------------------------------------------------------------------------------


def _authenticate(transport: paramiko.Transport, hop: Hop, login: Login) -> None:
    """Log in with what the connection gives; with the agent and own keys if it gives nothing."""
    import paramiko

    refused: list[str] = []
    try:
        for label, log_in in _ways_in(transport, hop, login):
            try:
                missing = log_in()
            except paramiko.AuthenticationException:
                if not transport.is_active():
                    break
                refused.append(label)
            else:
                return _finish(transport, hop, login, missing)
    except (EOFError, OSError, paramiko.SSHException) as error:
        if transport.is_active():
            raise Unreachable(f"{hop.name} did not answer to the login: {error}") from error
    if transport.is_active() or refused:
        raise AccessRefused(_refused(transport, hop, refused))
    raise Unreachable(f"{hop.name} closed the connection while we logged in")


def _ways_in(
    transport: paramiko.Transport, hop: Hop, login: Login
) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    for label, key in keys_to_try(login):
        yield label, functools.partial(transport.auth_publickey, hop.user, key)
    if login.password is not None:
        yield "the password", functools.partial(transport.auth_password, hop.user, login.password)


def _finish(transport: paramiko.Transport, hop: Hop, login: Login, missing: Sequence[str]) -> None:
    """Give the password as well where the site asks for it after the key."""
    import paramiko

    if not missing:
        return
    if login.password is not None:
        with contextlib.suppress(paramiko.AuthenticationException):
            if not transport.auth_password(hop.user, login.password):
                return
    raise AccessRefused(
        f"{hop.name} accepts the login only with a second factor ({', '.join(missing)}): open a "
        "master connection by hand and give its socket as 'control_path'"
    )


def _refused(transport: paramiko.Transport, hop: Hop, tried: Sequence[str]) -> str:
    import paramiko

    accepted = ""
    with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
        try:
            transport.auth_none(hop.user)
        except paramiko.BadAuthenticationType as error:
            accepted = f" It accepts: {', '.join(error.allowed_types)}."
    if not tried:
        what = "there was nothing to log in with: give the connection a password or a private key"
    else:
        what = (
            f"it refused {', '.join(tried)}: check the user name, and that the public key stands "
            "in ~/.ssh/authorized_keys there (or in the site's key portal)"
        )
    return f"{hop.name} does not let us in; {what}.{accepted}"
