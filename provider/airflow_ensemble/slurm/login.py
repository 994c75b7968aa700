"""Where a cluster is and how to get in: what a connection says."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Login:
    """Where a cluster is and how to get in. Its ``repr`` holds no secret.

    :param host: name or address of a login node; None for this machine, without SSH.
    :param port: of its SSH server.
    :param user: account there; None for the name of the account that runs this.
    :param password: of the account.
    :param private_key: text of a private key: ed25519, ECDSA or RSA, in OpenSSH's or PEM format.
    :param passphrase: of the private key or the key file.
    :param key_file: path of a private key here. When neither password nor key is given, the SSH
        agent and the account's own keys in ``~/.ssh`` are tried.
    :param host_key: what the host must prove to be: lines as in a ``known_hosts`` file or as
        ``ssh-keyscan`` prints them, public keys alone (``ssh-ed25519 AAAA…``, taken for ``host``),
        or fingerprints (``SHA256:…``). Lines with names serve jump hosts, too.
    :param known_hosts: path of a ``known_hosts`` file for hosts that ``host_key`` does not name;
        None for the account's own and the machine's.
    :param verify_host_key: False trusts whatever answers: anyone on the way can then take over.
    :param proxy_jump: hosts to go through, ``[user@]host[:port]``, several separated by commas.
    :param control_path: socket of an OpenSSH ControlMaster that an operator keeps open.
    :param connect_timeout: seconds for each step of connecting.
    """

    host: str | None = None
    port: int = 22
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    key_file: str | None = None
    host_key: str | None = None
    known_hosts: str | None = None
    verify_host_key: bool = True
    proxy_jump: str | None = None
    control_path: str | None = None
    connect_timeout: float = 15.0
