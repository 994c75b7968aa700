"""What hosts must prove to be: ``known_hosts`` lines, bare public keys and fingerprints.

OpenSSH's own rules, as far as they concern plain host keys: names may be hashed, may hold ``*`` and
``?``, and may be negated; a key marked ``@revoked`` never counts. Certificate authorities are not
supported, and a line that cannot be read is passed over, as OpenSSH does.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_TYPES = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")
_FINGERPRINT = "SHA256:"


@dataclass(frozen=True)
class PublicKey:
    """A host's public key.

    :param type: such as ``ssh-ed25519``.
    :param blob: the key as SSH sends it.
    """

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint as OpenSSH prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return _FINGERPRINT + digest.rstrip("=")

    @property
    def text(self) -> str:
        """Return the line that makes this key known."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True)
class KnownKey:
    """One line that says what a host must prove to be.

    :param names: patterns of the hosts it holds for; empty for whatever host the text was given to.
    :param key: its key; None when only ``fingerprint`` is known.
    :param fingerprint: of the key.
    :param is_revoked: whether this key must never be trusted.
    """

    names: tuple[str, ...]
    key: PublicKey | None
    fingerprint: str
    is_revoked: bool = False


def parse_known_hosts(text: str) -> list[KnownKey]:
    """Read lines of a ``known_hosts`` file, bare public keys and fingerprints."""
    found = (_parse_line(line.split()) for line in text.splitlines())
    return [known for known in found if known is not None]


def find_keys(known: Iterable[KnownKey], host: str, port: int) -> list[KnownKey]:
    """Return the lines that hold for a host, those without names included."""
    name = host_name(host, port)
    return [line for line in known if not line.names or _matches(line.names, name)]


def host_name(host: str, port: int) -> str:
    """Return a host as ``known_hosts`` files call it."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def is_trusted(known: Iterable[KnownKey], shown: PublicKey) -> bool:
    """Return whether a host that shows this key is the one that these lines speak of."""
    same = [line for line in known if line.fingerprint == shown.fingerprint]
    return bool(same) and not any(line.is_revoked for line in same)


def _parse_line(fields: list[str]) -> KnownKey | None:
    if not fields or fields[0].startswith("#"):
        return None
    is_revoked = fields[0] == "@revoked"
    if is_revoked:
        fields = fields[1:]
    for position, word in enumerate(fields[:2]):
        names = tuple(fields[0].split(",")) if position else ()
        if word.startswith(_FINGERPRINT):
            return KnownKey(names, None, word.rstrip("="), is_revoked)
        if word.startswith(_TYPES) and position + 1 < len(fields):
            return _known(names, fields[position + 1], is_revoked)
    # A connection may hold the base64 alone, which begins with the length of the key's type.
    return _known((), fields[0], is_revoked) if len(fields) == 1 else None


def _known(names: tuple[str, ...], encoded: str, is_revoked: bool) -> KnownKey | None:
    try:
        blob = base64.b64decode(encoded, validate=True)
        (length,) = struct.unpack_from(">I", blob)
        kind = blob[4 : 4 + length].decode("ascii")
    except (ValueError, struct.error):
        return None
    if not kind.startswith(_TYPES):
        return None
    key = PublicKey(kind, blob)
    return KnownKey(names, key, key.fingerprint, is_revoked)


def _matches(patterns: Iterable[str], name: str) -> bool:
    is_match = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if _matches_one(pattern[1:], name):
                return False
        elif _matches_one(pattern, name):
            is_match = True
    return is_match


def _matches_one(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        return _matches_hash(pattern, name)
    # Brackets are part of a name here, never a set of characters.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def _matches_hash(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in pattern.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)
