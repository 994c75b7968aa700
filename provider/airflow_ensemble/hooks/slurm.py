"""Reaches a Slurm cluster by an Airflow connection of type ``slurm``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError

from airflow_ensemble.engine.ensemble.paths import expand
from airflow_ensemble.engine.ensemble.schema import Place, describe
from airflow_ensemble.engine.ensemble.written import read_number
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.hooks.extra import is_text, read_extra
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.login_shell import LoginShell
from airflow_ensemble.slurm.site import PYTHON, interpreter

if TYPE_CHECKING:
    from airflow_ensemble.slurm.site import Site

log = logging.getLogger(__name__)

#: Seconds between two polls of a cluster when its connection says nothing else.
POLL_INTERVAL = 10.0
#: Texts of the connection's extra that say how to get in, by the names that ``Login`` has for them.
_LOGIN = ("private_key", "key_file", "host_key", "known_hosts", "proxy_jump", "control_path")
_TEXTS = frozenset(
    {"remote_root", "partition", "account", "python", "job_url", "private_key_passphrase", *_LOGIN}
)
#: Keys of the connection's extra.
EXTRA = (*sorted(_TEXTS), "poll_interval", "setup", "no_host_key_check", "connect_timeout")
_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


@dataclass(frozen=True)
class SlurmSettings:
    """What a connection of type ``slurm`` says.

    :param conn_id: the connection's id: the place that jobs are entered under.
    :param login: how to get in; without a host, commands run on this machine.
    :param remote_root: folder on the cluster for scripts, chunks and logs; must exist.
    :param defaults: options of ``sbatch`` where the ensemble file gives none.
    :param setup: shell lines before the worker starts.
    :param python: interpreter that *Test connection* asks for its version.
    :param poll_interval: seconds between two polls, at least.
    :param job_url: page of a job, with ``{job_id}`` in it; empty when there is none.
    """

    conn_id: str
    login: Login = field(repr=False)
    remote_root: str
    defaults: Mapping[str, Any]
    setup: tuple[str, ...]
    python: str = PYTHON
    poll_interval: float = POLL_INTERVAL
    job_url: str = ""

    def cluster(self) -> Cluster:
        """Return the cluster; nothing is connected before it is first used."""
        client = SlurmClient(make_runner(self.login))
        return Cluster(
            client=client,
            place=self.conn_id,
            remote_root=self.remote_root,
            defaults=self.defaults,
            setup=self.setup,
            side=LoginShell(client.runner),
        )


class SlurmHook(BaseHook):
    """Reads a connection of type ``slurm`` and gives the cluster that it leads to.

    :param slurm_conn_id: id of the connection.
    """

    conn_name_attr = "slurm_conn_id"
    default_conn_name = "slurm_default"
    conn_type = "slurm"
    hook_name = "Slurm over SSH"

    def __init__(self, slurm_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.slurm_conn_id = slurm_conn_id

    @property
    def settings(self) -> SlurmSettings:
        """Return what the connection says.

        :raises UsageError: naming the field that cannot be used.
        """
        return read_settings(self.get_connection(self.slurm_conn_id))

    def get_conn(self) -> Cluster:
        """Return the cluster; whoever takes it closes its runner."""
        return self.settings.cluster()

    @classmethod
    def get_cluster(cls, conn_id: str) -> Cluster:
        """Return the cluster of a connection; whoever takes it closes its runner."""
        return cls(conn_id).get_conn()

    @classmethod
    async def aget_settings(cls, conn_id: str) -> SlurmSettings:
        """Return what a connection says, from within a triggerer."""
        return read_settings(await cls.aget_connection(conn_id))

    @classmethod
    async def aget_cluster(cls, conn_id: str) -> Cluster:
        """Return the cluster of a connection, from within a triggerer."""
        return (await cls.aget_settings(conn_id)).cluster()

    def test_connection(self) -> tuple[bool, str]:
        """Ask the cluster who it is, for the button *Test connection*."""
        try:
            settings = self.settings
            cluster = settings.cluster()
            with cluster.client.runner as runner:
                field = Place(f"connection {settings.conn_id!r}", "python")
                python = expand(settings.python, field, LoginShell(runner))
                site = cluster.client.site(python)
                root = cluster.root({})
                folder = shlex.quote(root)
                usable = runner.run(f"test -d {folder} && test -w {folder}").code == 0
        except Exception as error:
            return False, str(error) or type(error).__name__
        if not usable:
            return False, (
                f"{describe_site(site, settings)}; but remote_root {root} is not a "
                "folder that this account can write to: make it, or name another"
            )
        return True, describe_site(site, settings)


class Clusters:
    """Clusters by the place that jobs are entered under, each connected once.

    A context manager: leaving it closes all of their connections.
    """

    def __init__(self) -> None:
        self._known: dict[str, Cluster | None] = {}

    def __call__(self, place: str) -> Cluster | None:
        """Return the cluster of a place; None for a place that no connection leads to."""
        if place not in self._known:
            self._known[place] = self._find(place)
        return self._known[place]

    def __enter__(self) -> Clusters:
        return self

    def __exit__(self, *error: object) -> None:
        for cluster in self._known.values():
            if cluster is not None:
                cluster.client.runner.close()

    def _find(self, place: str) -> Cluster | None:
        try:
            return SlurmHook.get_cluster(place)
        except (AirflowNotFoundException, AirflowRuntimeError):
            log.warning("no Airflow connection %r: jobs that were sent there are left alone", place)
            return None


# --- the connection's fields ------------------------------------------------------------------


def read_settings(connection: Connection) -> SlurmSettings:
    """Read a connection of type ``slurm``.

    :raises UsageError: when it is of another type, or naming the field that cannot be used.
    """
    where = f"connection {connection.conn_id!r}"
    if connection.conn_type != SlurmHook.conn_type:
        raise UsageError(f"{where} is of type {connection.conn_type!r}: it must be 'slurm'")
    extra = {key: value for key, value in read_extra(connection).items() if value not in ("", None)}
    for key in set(extra) - set(EXTRA):
        meant = get_close_matches(key, EXTRA, 1)
        hint = f": did you mean {meant[0]!r}?" if meant else f": known are {', '.join(EXTRA)}"
        raise UsageError(f"{where}: extra {key!r} is not known{hint}")
    for key in _TEXTS & set(extra):
        if not is_text(extra[key]):
            raise UsageError(f"{where}: {key} must be a text, found {describe(extra[key])}")
        extra[key] = str(extra[key])
    root = extra.get("remote_root", "")
    if not root.startswith(("/", "~", "$")):
        raise UsageError(
            f"{where}: remote_root must be the absolute path of a folder on the cluster in which "
            f"scripts, chunks and logs may lie, not {root!r}"
        )
    return SlurmSettings(
        conn_id=connection.conn_id,
        login=_read_login(connection, extra, where),
        remote_root=root.rstrip("/") or "/",
        defaults={key: extra[key] for key in ("partition", "account") if key in extra},
        setup=_read_setup(extra.get("setup", []), where),
        python=interpreter(extra),
        poll_interval=_read_seconds(extra, "poll_interval", POLL_INTERVAL, where),
        job_url=_read_job_url(extra, where),
    )


def _read_login(connection: Connection, extra: Mapping[str, Any], where: str) -> Login:
    return Login(
        host=connection.host or None,
        port=connection.port or 22,
        user=connection.login or None,
        password=connection.password or None,
        passphrase=extra.get("private_key_passphrase"),
        verify_host_key=not _read_flag(extra, "no_host_key_check", where),
        connect_timeout=_read_seconds(extra, "connect_timeout", Login.connect_timeout, where),
        **{key: extra[key] for key in _LOGIN if key in extra},
    )


def _read_setup(value: Any, where: str) -> tuple[str, ...]:
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UsageError(
            f"{where}: setup must be lines of shell, or a list of texts, found {describe(value)}"
        )
    return tuple(line for line in lines if line.strip())


def _read_flag(extra: Mapping[str, Any], key: str, where: str) -> bool:
    value = str(extra.get(key, False)).strip().lower()
    if value not in _FLAGS:
        raise UsageError(f"{where}: {key} is {extra[key]!r}: it must be true or false")
    return _FLAGS[value]


def _read_seconds(extra: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = extra.get(key, default)
    number = read_number(value.strip()) if isinstance(value, str) else value
    is_truth = isinstance(number, bool)
    if isinstance(number, (int, float)) and not is_truth and 0 < number < float("inf"):
        return float(number)
    raise UsageError(f"{where}: {key} is {value!r}: it must be a number of seconds above 0")


def _read_job_url(extra: Mapping[str, Any], where: str) -> str:
    url: str = extra.get("job_url", "")
    if url and "{job_id}" not in url:
        raise UsageError(f"{where}: job_url is {url!r}: it must hold {{job_id}} where the id goes")
    return url


def describe_site(site: Site, settings: SlurmSettings) -> str:
    """Return what *Test connection* says of a cluster, in one line."""
    python = f"{settings.python} is Python {site.python}"
    if not site.python:
        python = f"there is no {settings.python}: name one of the cluster in execution.python"
    accounting = "answers" if site.accounting else "is off or does not answer"
    return (
        f"{site.version_text}, cluster {site.cluster}, MaxArraySize {site.max_array_size}, "
        f"accounting {accounting}; {python}"
    )
