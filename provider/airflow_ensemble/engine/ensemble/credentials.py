"""Telling secrets from plain values, where a plain value would be there for many to read.

A guess by names and forms that are in use: it cannot know every secret, but it catches the ones
that people paste by habit. It never repeats what it was shown.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|(?:^|_)(?:TOKEN|PWD|SAS|DSN)$"
    r"|(?:ACCESS|API|PRIVATE|ACCOUNT|AUTH|SAS)_?KEY",
    re.IGNORECASE,
)
#: A variable that says where a secret lies holds none.
_SAYS_WHERE = re.compile(r"_(?:FILE|PATH|DIR|NAME)$", re.IGNORECASE)
_FORM = re.compile(
    r"\b(?:password|passwd|pwd|passphrase)\s*[=:]\s*\S|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*",
    re.IGNORECASE,
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_QUERY = {"password", "sslpassword", "passwd", "secret", "token", "sig"}


def names_secret(variable: str) -> bool:
    """Return whether a variable of this name usually holds a secret."""
    return bool(_NAME.search(variable)) and not _SAYS_WHERE.search(variable)


def holds_secret(text: str) -> bool:
    """Return whether a text has the form of a secret, or a URL with a password in it."""
    return bool(_FORM.search(text)) or any(map(_url_holds_secret, _URL.findall(text)))


def _url_holds_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.password) or not _QUERY.isdisjoint(parse_qs(parts.query.lower()))
    except ValueError:
        return True
