"""Private keys: from the text or file of a connection, or from the account's own places."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.slurm.errors import AccessRefused

if TYPE_CHECKING:
    import paramiko

    from airflow_ensemble.slurm.login import Login

OWN_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


def keys_to_try(login: Login) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield the keys to log in with, each with what to call it.

    Only those that the login gives, if it gives any way to log in; else those of the SSH agent and
    of the account's own files that have no passphrase.

    :raises AccessRefused: when a given key cannot be used.
    """
    if login.private_key:
        key = load_key(login.private_key, login.passphrase, "the private key of the connection")
        yield f"the connection's private key ({key.fingerprint})", key
    if login.key_file:
        key = _load_file(login.key_file, login.passphrase)
        yield f"the key {login.key_file} ({key.fingerprint})", key
    if not (login.private_key or login.key_file or login.password):
        yield from _own_keys(login.passphrase)


def load_key(text: str, passphrase: str | None, what: str) -> paramiko.PKey:
    """Read a private key: ed25519, ECDSA or RSA, in OpenSSH's, PEM or PKCS#8 format.

    :param what: what to call it in errors, which never hold any of it.
    :raises AccessRefused: when it is none, or its passphrase is missing or wrong.
    """
    import paramiko
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    data = _with_lines(text).encode()
    is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    read = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        loaded = read(data, passphrase.encode() if passphrase else None)
    except Exception as error:
        # The library's message goes no further: nobody promises that it holds nothing of the key.
        raise AccessRefused(_unusable(what, data, passphrase, error)) from None
    kinds: tuple[tuple[type, type[paramiko.PKey]], ...] = (
        (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
        (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
        (rsa.RSAPrivateKey, paramiko.RSAKey),
    )
    for kind, wanted in kinds:
        if isinstance(loaded, kind):
            plain = loaded.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
            return wanted.from_private_key(io.StringIO(plain.decode()))
    raise AccessRefused(f"{what} is of a kind that SSH no longer uses: make one of ed25519")


def _unusable(what: str, data: bytes, passphrase: str | None, error: Exception) -> str:
    if b"PuTTY-User-Key-File" in data:
        return f"{what} is in PuTTY's format: convert it with `puttygen KEY -O private-openssh`"
    if b"PRIVATE KEY" not in data:
        return f"{what} is no private key: it should begin with -----BEGIN … PRIVATE KEY-----"
    if isinstance(error, TypeError) and not passphrase:
        return f"{what} is encrypted: give its passphrase"
    if isinstance(error, TypeError):
        return f"{what} has no passphrase, but one was given: leave it out"
    if passphrase:
        return f"{what} cannot be read: its passphrase is wrong, or it is damaged"
    return f"{what} cannot be read: it is damaged or incomplete ({type(error).__name__})"


def _with_lines(text: str) -> str:
    """Give a key its lines back, which forms and environment variables like to take away."""
    text = text.strip().replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\\n", "\n")
    return text + "\n"


def _load_file(name: str, passphrase: str | None) -> paramiko.PKey:
    path = Path(name).expanduser()
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise AccessRefused(f"the key file {path} cannot be read: {error.strerror}") from error
    key = load_key(text, passphrase, f"the key file {path}")
    certificate = path.with_name(f"{path.name}-cert.pub")
    if certificate.is_file():
        key.load_certificate(str(certificate))
    return key


def _own_keys(passphrase: str | None) -> Iterator[tuple[str, paramiko.PKey]]:
    import paramiko

    agent = paramiko.Agent()
    try:
        for key in agent.get_keys():
            yield f"the agent's key {key.fingerprint}", key
        for name in OWN_KEYS:
            if Path(name).expanduser().is_file():
                try:
                    yield f"the key {name}", _load_file(name, passphrase)
                except AccessRefused:
                    continue
    finally:
        agent.close()
