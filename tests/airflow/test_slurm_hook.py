"""The connection of type ``slurm``: its form, what is read from it, and its test button."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.get_provider_info import get_provider_info
from airflow_ensemble.hooks.slurm import EXTRA, Clusters, SlurmHook, read_settings
from tests.services.slurm import SlurmCluster


def connection(**extra: Any) -> Connection:
    values = {"remote_root": "/scratch/me", **extra}
    return Connection(
        conn_id="hpc",
        conn_type="slurm",
        host="login",
        login="me",
        password="geheim",
        extra=json.dumps({key: value for key, value in values.items() if value is not None}),
    )


def test_every_field_of_the_form_is_read() -> None:
    settings = read_settings(
        connection(
            partition="debug",
            account="weather",
            poll_interval="30",
            setup="module load a\n\nmodule load b",
            private_key="-----BEGIN",
            private_key_passphrase="p",
            host_key="ssh-ed25519 AAAA",
            no_host_key_check="true",
            proxy_jump="gate",
            job_url="https://hpc/{job_id}",
        )
    )
    login = settings.login
    assert (login.host, login.port, login.user, login.password) == ("login", 22, "me", "geheim")
    assert (login.private_key, login.passphrase) == ("-----BEGIN", "p")
    assert (login.host_key, login.verify_host_key) == ("ssh-ed25519 AAAA", False)
    assert (login.proxy_jump, login.key_file) == ("gate", None)
    assert settings.defaults == {"partition": "debug", "account": "weather"}
    assert settings.setup == ("module load a", "module load b")
    assert (settings.remote_root, settings.poll_interval) == ("/scratch/me", 30.0)
    assert "geheim" not in repr(settings)


def test_what_the_form_leaves_empty_is_the_default() -> None:
    settings = read_settings(connection(partition="", poll_interval=None, setup=""))
    assert (settings.defaults, settings.setup, settings.poll_interval) == ({}, (), 10.0)
    assert settings.login.verify_host_key


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"remote_root": None}, "remote_root must be the absolute path"),
        ({"remote_root": "scratch"}, "remote_root must be the absolute path"),
        ({"poll_interval": "soon"}, "poll_interval is 'soon'"),
        ({"poll_interval": 0}, "poll_interval is 0"),
        ({"partitions": "debug"}, "'partitions' is not known: did you mean 'partition'"),
        ({"job_url": "https://hpc/"}, r"must hold \{job_id\}"),
        ({"poll_interval": "1_0"}, "poll_interval is '1_0'"),
        ({"poll_interval": True}, "poll_interval is True"),
        ({"poll_interval": float("nan")}, "poll_interval is nan"),
        ({"connect_timeout": "1e400"}, "connect_timeout is '1e400'"),
        ({"setup": 5}, "setup must be lines of shell, or a list of texts, found the number 5"),
        ({"setup": ["a", ["b"]]}, "setup must be lines of shell, or a list of texts, found a list"),
        ({"setup": {"a": 1}}, "setup must be lines of shell"),
        ({"no_host_key_check": "ture"}, "no_host_key_check is 'ture': it must be true or false"),
        ({"partition": True}, "partition must be a text, found true"),
        ({"python": ["python3"]}, "python must be a text, found a list"),
    ],
)
def test_a_wrong_field_is_named(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"connection 'hpc'.*{message}"):
        read_settings(connection(**extra))


def test_numbers_of_the_extra_are_texts_where_texts_are_meant() -> None:
    extra = (
        '{"remote_root": "/scratch", "account": 1e5, "partition": 2.10, "key_file": 7,'
        ' "private_key_passphrase": 1.10, "poll_interval": 1e1, "no_host_key_check": 1}'
    )
    settings = read_settings(Connection(conn_id="hpc", conn_type="slurm", extra=extra))
    assert settings.defaults == {"account": "1e5", "partition": "2.10"}
    assert (settings.login.passphrase, settings.login.key_file) == ("1.10", "7")
    assert (settings.poll_interval, settings.login.verify_host_key) == (10.0, False)


@pytest.mark.parametrize(
    ("value", "verifies"), [("true", False), (True, False), ("No", True), (0, True), (None, True)]
)
def test_the_host_key_check_is_turned_off_by_a_plain_yes_alone(value: Any, verifies: bool) -> None:
    assert read_settings(connection(no_host_key_check=value)).login.verify_host_key is verifies


def test_a_connection_of_another_type_is_refused() -> None:
    with pytest.raises(UsageError, match="of type 'ssh': it must be 'slurm'"):
        read_settings(Connection(conn_id="hpc", conn_type="ssh", host="x"))


def test_the_form_offers_what_is_read() -> None:
    (form,) = get_provider_info()["connection-types"]  # type: ignore[misc]
    assert set(form["conn-fields"]) == set(EXTRA) - {"connect_timeout"}


def test_airflow_takes_the_form_from_the_provider_info() -> None:
    from airflow.providers_manager import ProvidersManager

    hook = ProvidersManager().hooks["slurm"]
    assert hook is not None
    assert hook.hook_class_name == "airflow_ensemble.hooks.slurm.SlurmHook"
    assert hook.hook_name == SlurmHook.hook_name


def test_a_place_without_a_connection_has_no_cluster() -> None:
    with Clusters() as clusters:
        assert clusters("never_defined") is None


# --- the test button, on a real cluster ---------------------------------------------------------


@pytest.fixture
def hook(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmHook:
    slurm.reset()
    monkeypatch.setenv("AIRFLOW_CONN_HPC", slurm.airflow_connection(python=slurm.python))
    return SlurmHook("hpc")


def test_the_button_reports_what_a_run_will_meet(hook: SlurmHook, slurm: SlurmCluster) -> None:
    works, text = hook.test_connection()
    assert works, text
    version = slurm.admin("sinfo", "--version").split()[1]
    for word in (version, "cluster", "MaxArraySize", "accounting answers", "Python 3.9."):
        assert word in text


def test_the_button_says_when_accounting_is_off(
    slurm_without_accounting: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PLAIN", slurm_without_accounting.airflow_connection())
    works, text = SlurmHook("plain").test_connection()
    assert works, text
    assert "accounting is off" in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"remote_root": "/no/such/folder"}, "/no/such/folder is not a folder"),
        ({"remote_root": "/etc"}, "/etc is not a folder that this account can write to"),
        ({"host_key": "ssh-ed25519 " + "A" * 68}, "host key"),
        ({"private_key": "nonsense"}, "key"),
    ],
)
def test_the_button_says_what_is_wrong(
    slurm: SlurmCluster,
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", slurm.airflow_connection(**extra))
    works, text = SlurmHook("wrong").test_connection()
    assert not works
    assert message in text
    assert "nonsense" not in text
