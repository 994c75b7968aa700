"""Kubernetes' objects without any I/O: selectors, patches, names, quantities, refusals."""

from __future__ import annotations

import copy
import random
import re
import string
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

Object = dict[str, Any]

#: What a field selector may ask of each resource, and where the answer is.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "pods": ("spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP"),
    "events": (
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "type",
    ),
    "secrets": ("type",),
    "namespaces": ("status.phase",),
}
_EVERYWHERE = ("metadata.name", "metadata.namespace")
_TERM = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<no>[\w./-]+)"
    r"|(?P<set>[\w./-]+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|(?P<key>[\w./-]+)\s*(?:(?P<operator>==|=|!=)\s*(?P<value>[\w.-]*))?)\s*(?:,|$)"
)
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
#: The letters of the suffix of a generated name: no vowels, which could make words.
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Refused(Exception):
    """An answer other than the object that was asked for.

    :param code: the HTTP status.
    :param reason: the word for it in a ``Status`` object.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def status(self) -> Object:
        """Return the ``Status`` object that says so."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }


def not_found(resource: str, name: str) -> Refused:
    return Refused(404, "NotFound", f'{resource} "{name}" not found')


def already_exists(resource: str, name: str) -> Refused:
    return Refused(409, "AlreadyExists", f'{resource} "{name}" already exists')


def invalid(kind: str, name: str, why: str) -> Refused:
    return Refused(422, "Invalid", f'{kind} "{name}" is invalid: {why}')


def not_faked(what: str) -> Refused:
    """Return the answer to a request that a real server grants and this one does not know."""
    return Refused(501, "NotImplemented", f"the fake Kubernetes does not know {what}")


def now() -> str:
    """Return the time as Kubernetes writes it in objects."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def labels_match(selector: str, labels: Mapping[str, str]) -> bool:
    """Return whether labels fit a selector."""
    position = 0
    while position < len(selector):
        term = _TERM.match(selector, position)
        if term is None or term.end() == position:
            raise Refused(400, "BadRequest", f"unable to parse requirement: {selector!r}")
        if not _term_matches(term, labels):
            return False
        position = term.end()
    return True


def _term_matches(term: re.Match[str], labels: Mapping[str, str]) -> bool:
    if term["absent"]:
        return term["no"] not in labels
    if term["set"]:
        values = {value.strip() for value in term["values"].split(",")}
        return (labels.get(term["set"]) in values) == (term["how"] == "in")
    if term["operator"] is None:
        return term["key"] in labels
    return (labels.get(term["key"]) == term["value"]) == (term["operator"] != "!=")


def fields_match(resource: str, selector: str, thing: Object) -> bool:
    """Return whether an object fits a field selector."""
    for term in filter(None, selector.split(",")):
        field, operator, value = re.split(r"(!=|==|=)", term, maxsplit=1)
        if field not in (*FIELDS.get(resource, ()), *_EVERYWHERE):
            raise Refused(400, "BadRequest", f"field label not supported: {field}")
        found = str(_at(thing, field.split(".")) or "")
        if (found == value) == (operator == "!="):
            return False
    return True


def _at(thing: Any, path: Iterable[str]) -> Any:
    for key in path:
        thing = thing.get(key) if isinstance(thing, dict) else None
    return thing


def merged(target: Object, patch: Mapping[str, Any]) -> Object:
    """Return an object with a merge patch applied: null removes, mappings merge."""
    result = copy.deepcopy(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = value
    return result


def name_of(metadata: Mapping[str, Any]) -> str:
    """Return the name that an object gets: its own, or one that begins as it asks."""
    name: str = metadata.get("name") or ""
    prefix: str = metadata.get("generateName") or ""
    if not name and prefix:
        name = prefix[:58] + "".join(random.choice(_SUFFIX) for _ in range(5))
    return name


def check_name(kind: str, name: str) -> None:
    """Refuse a name that is no DNS subdomain."""
    if not name:
        raise invalid(kind, "", "metadata.name: Required value: name or generateName is required")
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise invalid(kind, name, f'metadata.name: Invalid value: "{name}"')


def quantity(text: str | float) -> float:
    """Return the number that a quantity such as ``64Mi`` or ``500m`` stands for."""
    text = str(text)
    if text.endswith("m"):
        return float(text[:-1]) / 1000
    number = text.rstrip(string.ascii_letters)
    return float(number) * _UNITS[text[len(number) :]]


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """Return a text with ``$(NAME)`` replaced; ``$$(NAME)`` stays, with one dollar."""

    def value(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return environment.get(found[1], found[0])

    return re.sub(r"\$?\$\(([\w.-]+)\)", value, text)
