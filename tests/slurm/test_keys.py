"""Host keys, private keys and logins as text, without any connection."""

from __future__ import annotations

import base64
import getpass
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.errors import AccessRefused
from airflow_ensemble.slurm.host_keys import find_keys, is_trusted, parse_known_hosts
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.openssh_runner import OpenSshRunner
from airflow_ensemble.slurm.paramiko_runner import ParamikoRunner
from airflow_ensemble.slurm.ssh_connection import route
from airflow_ensemble.slurm.ssh_keys import load_key
from tests.services.sshd import make_key

SECRET = "s3cret-never-shown"


def public_key(seed: int = 0, kind: str = "ssh-ed25519") -> str:
    blob = struct.pack(">I", len(kind)) + kind.encode() + bytes([seed]) * 32
    return f"{kind} {base64.b64encode(blob).decode()}"


class TestKnownHosts:
    @pytest.mark.parametrize(
        ("names", "host", "port", "is_match"),
        [
            ("login.example.org", "login.example.org", 22, True),
            ("login.example.org", "LOGIN.example.org", 22, True),
            ("login.example.org", "login.example.org", 2222, False),
            ("[login.example.org]:2222", "login.example.org", 2222, True),
            ("*.example.org", "login.example.org", 22, True),
            ("login?", "login1", 22, True),
            ("*.example.org,!old.example.org", "old.example.org", 22, False),
            ("a,b,c", "b", 22, True),
            ("login", "login1", 22, False),
        ],
    )
    def test_names_are_matched_as_openssh_does(
        self, names: str, host: str, port: int, is_match: bool
    ) -> None:
        known = parse_known_hosts(f"{names} {public_key()} some comment\n")

        assert bool(find_keys(known, host, port)) == is_match

    def test_a_key_is_trusted_only_if_it_is_the_same_and_not_revoked(self) -> None:
        [ours], [other] = parse_known_hosts(public_key(1)), parse_known_hosts(public_key(2))
        revoked = parse_known_hosts(f"@revoked host {public_key(1)}")
        assert ours.key is not None

        assert is_trusted([ours], ours.key)
        assert is_trusted([other, ours], ours.key)
        assert not is_trusted([other], ours.key)
        assert not is_trusted([], ours.key)
        assert not is_trusted([ours, *revoked], ours.key)

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "# comment",
            "host",
            "host ssh-ed25519",
            "host ssh-ed25519 not-base64!",
            "host ssh-ed25519 AAAA",
            f"@cert-authority *.example.org {public_key()}",
            "host 1024 65537 1234567890",
            "|1|broken ssh-ed25519",
        ],
    )
    def test_a_line_that_cannot_be_used_is_passed_over(self, line: str) -> None:
        known = parse_known_hosts(f"{line}\nhost {public_key()}\n")

        assert [each.names for each in known if find_keys([each], "host", 22)] == [("host",)]

    @given(st.text())
    def test_no_text_is_too_odd(self, text: str) -> None:
        for known in parse_known_hosts(text):
            find_keys([known], "host", 22)


class TestPrivateKeys:
    @pytest.mark.parametrize("passphrase", ["", SECRET])
    @pytest.mark.parametrize(
        ("kind", "form"),
        [
            ("ed25519", "RFC4716"),
            ("ecdsa", "RFC4716"),
            ("ecdsa", "PEM"),
            ("ecdsa", "PKCS8"),
            ("rsa", "RFC4716"),
            ("rsa", "PEM"),
            ("rsa", "PKCS8"),
        ],
    )
    def test_every_usual_format_is_read(
        self, tmp_path: Path, kind: str, form: str, passphrase: str
    ) -> None:
        make_key(tmp_path / "key", kind, passphrase, "-m", form)
        text = (tmp_path / "key").read_text()
        [public] = parse_known_hosts((tmp_path / "key.pub").read_text())

        assert load_key(text, passphrase or None, "it").fingerprint == public.fingerprint

    def test_lines_that_a_form_took_away_are_given_back(self, tmp_path: Path) -> None:
        make_key(tmp_path / "key")
        text = (tmp_path / "key").read_text()

        plain = load_key(text, None, "it")
        for form in (text.replace("\n", "\\n"), text.replace("\n", "\r\n"), f"\n  {text.strip()}"):
            assert load_key(form, None, "it") == plain

    def test_what_is_wrong_with_a_key_is_said_without_showing_it(self, tmp_path: Path) -> None:
        make_key(tmp_path / "key", "ed25519", SECRET)
        make_key(tmp_path / "open")
        text, plain = (tmp_path / "key").read_text(), (tmp_path / "open").read_text()
        cases = [
            (text, None, "is encrypted: give its passphrase"),
            (text, "wrong", "passphrase is wrong"),
            (plain[:200], None, "damaged or incomplete"),
            ("PuTTY-User-Key-File-3: ssh-ed25519", None, "puttygen"),
            (public_key(), None, "is no private key"),
            ("", None, "is no private key"),
        ]
        for given_text, passphrase, message in cases:
            with pytest.raises(AccessRefused, match=message) as caught:
                load_key(given_text, passphrase, "the key of the connection")
            shown = f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"
            assert all(line not in shown for line in given_text.splitlines()[1:])
            assert SECRET not in shown


class TestLogins:
    def test_secrets_are_not_in_its_representation(self) -> None:
        login = Login("host", password=SECRET, private_key=SECRET, passphrase=SECRET)

        assert SECRET not in repr(login)
        assert SECRET not in str(login)

    def test_each_login_gets_its_runner(self) -> None:
        assert isinstance(make_runner(Login()), LocalRunner)
        assert isinstance(make_runner(Login("host")), ParamikoRunner)
        assert isinstance(make_runner(Login("host", control_path="/tmp/s")), OpenSshRunner)
        assert make_runner(Login("host", 2222, "me")).place == "me@host:2222"
        assert make_runner(Login("host")).place == f"{getpass.getuser()}@host"

    def test_the_way_goes_through_every_jump_host(self) -> None:
        hops = route(Login("host", 2222, "me", proxy_jump="you@gate:23, [::1]:24,other"))

        assert [(hop.user, hop.host, hop.port) for hop in hops] == [
            ("you", "gate", 23),
            ("me", "::1", 24),
            ("me", "other", 22),
            ("me", "host", 2222),
        ]

    @pytest.mark.parametrize("text", ["a b", "@gate", "gate:", "gate:port", "ssh://gate"])
    def test_a_jump_host_that_cannot_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="proxy_jump"):
            make_runner(Login("host", proxy_jump=text))

    @pytest.mark.parametrize("control_path", [None, "/tmp/socket"])
    def test_no_name_becomes_an_option_of_ssh(self, control_path: str | None) -> None:
        for host, user, jump in [("-oX=y", "me", None), ("h", "-oX", None), ("h", "me", "-J")]:
            with pytest.raises(UsageError, match="no name of a user or a host"):
                make_runner(Login(host, 22, user, proxy_jump=jump, control_path=control_path))
