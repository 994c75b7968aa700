"""Getting in, and what goes wrong on the way, with real OpenSSH servers."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import paramiko
import psutil
import pytest

from airflow_ensemble.slurm import ssh_connection
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.errors import AccessRefused, OutcomeUnknown, Unreachable
from airflow_ensemble.slurm.host_keys import parse_known_hosts
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.runner import Runner
from tests.services.sshd import SshServer, free_port, make_key
from tests.slurm.ssh_places import open_master, open_runner

SECRET = "s3cret-never-shown"


@pytest.fixture(params=["paramiko", "openssh"])
def remote(request: pytest.FixtureRequest, own_sshd: SshServer, tmp_path: Path) -> Iterator[Runner]:
    with open_runner(request.param, own_sshd, tmp_path) as opened:
        yield opened


@contextlib.contextmanager
def soon(action: Callable[[], object], delay: float = 0.5) -> Iterator[None]:
    timer = threading.Timer(delay, action)
    timer.start()
    try:
        yield
    finally:
        timer.join()


class TestLostConnections:
    def test_a_server_killed_in_the_middle_leaves_the_outcome_unknown(
        self, remote: Runner, own_sshd: SshServer
    ) -> None:
        remote.run("true")
        with soon(own_sshd.kill), pytest.raises(OutcomeUnknown, match="broke in the middle"):
            remote.run("echo begun; sleep 20")

    def test_what_a_cut_connection_brought_before_is_no_answer(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        with make_runner(own_sshd.login()) as runner:
            with soon(own_sshd.cut), pytest.raises(OutcomeUnknown):
                runner.run("echo 123; echo done >&2; sleep 20")
            assert runner.run("echo again").out == "again\n"
            assert runner.connections == 2

    def test_a_server_restarted_between_two_commands_is_connected_to_again(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        with make_runner(own_sshd.login()) as runner:
            actions: list[Callable[[], object]] = [
                lambda: runner.run("true"),
                lambda: runner.append(f"{tmp_path}/log", b"x"),
                lambda: runner.write(f"{tmp_path}/file", b"x"),
                lambda: runner.rename(f"{tmp_path}/file", f"{tmp_path}/file2"),
                lambda: runner.list(str(tmp_path)),
            ]
            for count, action in enumerate(actions, 1):
                action()
                assert runner.connections == count
                own_sshd.kill()
                own_sshd.start()
        assert (tmp_path / "log").read_bytes() == b"x"

    def test_a_server_that_is_down_is_unreachable_until_it_is_back(
        self, own_sshd: SshServer
    ) -> None:
        with make_runner(own_sshd.login()) as runner:
            runner.run("true")
            own_sshd.kill()
            for _ in range(2):
                with pytest.raises(Unreachable, match="nothing listens"):
                    runner.run("true")
            own_sshd.start()
            assert runner.run("echo back").out == "back\n"

    def test_a_server_that_stands_still_is_not_waited_for_for_ever(
        self, own_sshd: SshServer
    ) -> None:
        with make_runner(own_sshd.login(connect_timeout=0.5)) as runner:
            runner.run("true")
            own_sshd.pause()
            try:
                begin = time.monotonic()
                with pytest.raises((Unreachable, OutcomeUnknown)):
                    runner.run("true", timeout=0.5)
                assert time.monotonic() - begin < 10
            finally:
                own_sshd.resume()
            assert runner.run("echo back").out == "back\n"

    def test_all_work_of_a_runner_is_one_connection(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        with make_runner(own_sshd.login()) as runner:
            for number in range(10):
                runner.run("true")
                runner.write(f"{tmp_path}/{number}", b"x")
                runner.list(str(tmp_path))
            assert runner.connections == 1
        assert own_sshd.accepted == 1

    def test_closing_and_using_again_connects_again(self, own_sshd: SshServer) -> None:
        runner = make_runner(own_sshd.login())
        runner.run("true")
        runner.close()
        runner.close()
        runner.run("true")
        runner.close()
        assert runner.connections == 2


class TestManyAtOnce:
    def test_too_many_new_connections_are_tried_again_until_there_is_room(self) -> None:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(SshServer("MaxStartups 1:100:1"))
            held = stack.enter_context(holding(server, 1))
            runner = stack.enter_context(make_runner(server.login()))
            stack.enter_context(soon(held.close, 1.0))
            assert runner.run("echo in").out == "in\n"

    def test_a_server_that_stays_full_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssh_connection, "FIRST_DELAY", 0.01)
        with SshServer("MaxStartups 1:100:1") as server, holding(server, 1):
            runner = make_runner(server.login())
            with pytest.raises(Unreachable, match="MaxStartups"):
                runner.run("true")
            assert runner.connections == 0

    def test_many_processes_get_in_past_a_narrow_door(self) -> None:
        answers: list[str] = []

        def ask(server: SshServer) -> None:
            with make_runner(server.login()) as runner:
                answers.append(runner.run("echo in").out)

        with SshServer("MaxStartups 3:50:6") as server:
            threads = [threading.Thread(target=ask, args=(server,)) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert answers == ["in\n"] * 20
            assert server.accepted == 20

    def test_a_site_that_allows_one_session_serves_commands_and_files(self, tmp_path: Path) -> None:
        with SshServer("MaxSessions 1") as server, make_runner(server.login()) as runner:
            for number in range(3):
                runner.write(f"{tmp_path}/{number}", b"x")
                assert runner.run(f"ls {tmp_path} | wc -l").out.strip() == str(number + 1)
            assert runner.connections == 1


@contextlib.contextmanager
def holding(server: SshServer, count: int) -> Iterator[contextlib.ExitStack]:
    """Hold connections that never log in."""
    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + 10
        while count:
            held = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            # The look that found the server up may still be counted.
            count -= held.recv(4) == b"SSH-"
            assert time.monotonic() < deadline
        yield stack


class TestHostKeys:
    def test_an_unknown_host_is_refused_with_what_to_enter(self, sshd: SshServer) -> None:
        message = refusal(sshd, host_key=None, known_hosts=os.devnull)

        assert "not known here" in message
        assert fingerprint(sshd.root / "host_key.pub") in message
        assert message.endswith(sshd.host_key)

    def test_what_the_refusal_says_to_enter_lets_us_in(self, sshd: SshServer) -> None:
        message = refusal(sshd, host_key=None, known_hosts=os.devnull)
        given = message.rpartition("host key: ")[2]

        assert answers(sshd, host_key=given)

    def test_a_changed_host_key_is_refused(self, own_sshd: SshServer) -> None:
        login = own_sshd.login()
        before = fingerprint(own_sshd.root / "host_key.pub")
        with make_runner(login) as runner:
            runner.run("true")
            own_sshd.kill()
            own_sshd.new_host_key()
            own_sshd.start()
            with pytest.raises(AccessRefused, match="ANOTHER host key") as caught:
                runner.run("true")
        assert before in str(caught.value)
        assert fingerprint(own_sshd.root / "host_key.pub") in str(caught.value)

    def test_only_verification_switched_off_by_name_trusts_anyone(
        self, sshd: SshServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            assert answers(sshd, host_key=None, known_hosts=os.devnull, verify_host_key=False)
        assert "not verified" in caplog.text

    def test_every_usual_form_of_a_host_key_is_understood(self, sshd: SshServer) -> None:
        scan = subprocess.run(
            ["ssh-keyscan", "-p", str(sshd.port), "127.0.0.1"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        forms = [
            sshd.host_key,
            f"{sshd.host_key} root@login1",
            sshd.host_key.split()[1],
            fingerprint(sshd.root / "host_key.pub"),
            f"[127.0.0.1]:{sshd.port} {sshd.host_key}",
            f"[127.0.0.*]:{sshd.port},other {sshd.host_key}",
            scan,
        ]
        for form in forms:
            assert answers(sshd, host_key=form, known_hosts=os.devnull), form

    def test_a_known_hosts_file_is_read_hashed_names_too(
        self, sshd: SshServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "known_hosts"
        path.write_text(f"# comment\n[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
        assert "127.0.0.1" not in path.read_text()

        assert answers(sshd, host_key=None, known_hosts=str(path))

    def test_the_accounts_own_known_hosts_file_is_read_when_nothing_is_given(
        self, sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = tmp_path / "own"
        monkeypatch.setattr(ssh_connection, "SYSTEM_KNOWN_HOSTS", (str(own), "/no/such/file"))
        assert "not known here" in refusal(sshd, host_key=None)

        own.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
        assert answers(sshd, host_key=None)

    def test_a_key_of_another_host_or_a_revoked_one_does_not_count(self, sshd: SshServer) -> None:
        nowhere = {"known_hosts": os.devnull}
        other = f"login.example.org {sshd.host_key}"
        assert "not known here" in refusal(sshd, host_key=other, **nowhere)

        name = f"[127.0.0.1]:{sshd.port}"
        lines = f"{name} {sshd.host_key}\n@revoked {name} {sshd.host_key}\n"
        assert "revoked" in refusal(sshd, host_key=lines, **nowhere)

    def test_the_type_of_key_that_is_known_is_the_one_that_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        make_key(tmp_path / "rsa", "rsa")
        make_key(tmp_path / "ecdsa", "ecdsa")
        options = [f"HostKey {tmp_path / kind}" for kind in ("rsa", "ecdsa")]
        with SshServer(*options) as server:
            for name in ("rsa.pub", "ecdsa.pub"):
                key = " ".join((tmp_path / name).read_text().split()[:2])
                assert answers(server, host_key=key), name

    def test_a_host_key_that_cannot_be_read_is_refused(self, sshd: SshServer) -> None:
        assert "cannot be read" in refusal(sshd, host_key="not a key")

    def test_a_missing_known_hosts_file_is_named(self, sshd: SshServer) -> None:
        assert "/no/such/file" in refusal(sshd, host_key=None, known_hosts="/no/such/file")


class TestWhoWeAre:
    def test_a_wrong_key_is_refused_and_said_to_be(self, sshd: SshServer, tmp_path: Path) -> None:
        make_key(tmp_path / "wrong")
        message = refusal(sshd, private_key=(tmp_path / "wrong").read_text())

        assert f"{sshd.user}@127.0.0.1" in message
        assert "does not let us in" in message
        assert fingerprint(tmp_path / "wrong.pub") in message
        assert "publickey" in message

    def test_a_wrong_password_is_refused_without_showing_it(self) -> None:
        with SshServer("PasswordAuthentication yes") as server:
            message = refusal(server, private_key=None, password=SECRET)
        assert "refused the password" in message
        assert SECRET not in message

    def test_nothing_to_log_in_with_is_said_to_be(
        self, sshd: SshServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        assert "nothing to log in with" in refusal(sshd, private_key=None)

    def test_own_keys_are_tried_when_nothing_is_given_and_only_then(
        self, sshd: SshServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh/id_ed25519").write_text(sshd.private_key)

        assert answers(sshd, private_key=None)
        assert "let us in" in refusal(sshd, private_key=None, password=SECRET)

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_every_usual_kind_of_key_logs_in(
        self, own_sshd: SshServer, tmp_path: Path, kind: str
    ) -> None:
        make_key(tmp_path / "key", kind, SECRET)
        own_sshd.allow((tmp_path / "key.pub").read_text())

        assert answers(own_sshd, private_key=(tmp_path / "key").read_text(), passphrase=SECRET)
        key_file = str(tmp_path / "key")
        assert answers(own_sshd, private_key=None, key_file=key_file, passphrase=SECRET)

    def test_neither_errors_nor_logs_nor_names_hold_a_secret(
        self, sshd: SshServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_key(tmp_path / "wrong", "ed25519", SECRET)
        text = (tmp_path / "wrong").read_text()
        login = sshd.login(private_key=text, passphrase=SECRET, password=SECRET)
        runner = make_runner(login)
        with caplog.at_level(logging.DEBUG), pytest.raises(AccessRefused) as caught:
            runner.run("true")

        shown = f"{login!r} {runner!r} {runner.place} {caught.value} {caplog.text}"
        assert SECRET not in shown
        assert text.splitlines()[1] not in shown

    def test_a_password_and_a_second_factor_are_told_apart(self) -> None:
        with PasswordSite() as site:
            assert site.refusal(password=SECRET) == ""
            assert "refused the password" in site.refusal(password="wrong")
        with PasswordSite(asks_for_more=True) as site:
            message = site.refusal(password=SECRET)
            assert "second factor" in message
            assert "control_path" in message


class TestTheWay:
    def test_an_unknown_host_name_is_unreachable(self, sshd: SshServer) -> None:
        with pytest.raises(Unreachable, match=r"'no-such-host\.invalid' is unknown"):
            make_runner(sshd.login(host="no-such-host.invalid")).run("true")

    def test_a_refused_port_is_unreachable(self, sshd: SshServer) -> None:
        port = free_port()
        with pytest.raises(Unreachable, match=f"port {port}.*connection refused"):
            make_runner(sshd.login(port=port)).run("true")

    def test_something_silent_is_given_up_in_time(self, sshd: SshServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            login = sshd.login(port=silent.getsockname()[1], connect_timeout=0.5)
            begin = time.monotonic()
            with pytest.raises(Unreachable, match="nothing came in time"):
                make_runner(login).run("true")
            assert time.monotonic() - begin < 5

    def test_a_site_without_sftp_is_said_to_be(self) -> None:
        no_sftp = "Subsystem nothing /bin/false"
        with SshServer(no_sftp) as server, make_runner(server.login()) as runner:
            assert runner.run("echo in").out == "in\n"
            with pytest.raises(AccessRefused, match="Subsystem sftp"):
                runner.stat("/tmp")
            assert runner.run("echo still").out == "still\n"

    def test_what_startup_files_print_is_no_part_of_an_answer(self, tmp_path: Path) -> None:
        noise = 'ForceCommand echo Welcome; echo Hello >&2; eval "$SSH_ORIGINAL_COMMAND"'
        with SshServer(noise) as server, make_runner(server.login()) as runner:
            assert runner.run("echo out; cat; exit 4", input=b"in").out == "out\nin"
            assert runner.run("exit 4").code == 4
            with pytest.raises(AccessRefused, match="start-up files print"):
                runner.stat("/tmp")

    @pytest.mark.parametrize("kind", ["paramiko", "openssh"])
    def test_an_account_without_a_shell_is_refused_with_the_sites_words(
        self, tmp_path: Path, kind: str
    ) -> None:
        closed = "ForceCommand echo This account is closed.; exit 1"
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(SshServer(closed))
            runner = stack.enter_context(open_runner(kind, server, tmp_path))
            with pytest.raises(AccessRefused, match=r"This account is closed\."):
                runner.run("true")


class TestJumpHosts:
    def test_a_jump_host_is_gone_through_once(self, sshd: SshServer, own_sshd: SshServer) -> None:
        with make_runner(jumping(sshd, own_sshd)) as runner:
            assert runner.run("echo $SSH_CONNECTION").out.split()[3] == str(sshd.port)
            runner.stat("/tmp")
            assert runner.place == f"{sshd.user}@127.0.0.1:{sshd.port}"
        assert own_sshd.accepted == 1

    def test_the_jump_hosts_own_key_is_checked(self, sshd: SshServer, own_sshd: SshServer) -> None:
        login = jumping(sshd, own_sshd, host_key=sshd.host_key, known_hosts=os.devnull)
        with pytest.raises(AccessRefused, match=f"port {own_sshd.port}, .*not known here"):
            make_runner(login).run("true")

    def test_a_jump_host_that_does_not_forward_is_named(self, sshd: SshServer) -> None:
        with SshServer("AllowTcpForwarding no") as jump:
            runner = make_runner(jumping(sshd, jump))
            with pytest.raises(Unreachable, match=f"jump host .*:{jump.port} could not reach"):
                runner.run("true")

    def test_a_jump_host_that_finds_nothing_is_named(self, own_sshd: SshServer) -> None:
        lines = f"[127.0.0.1]:{own_sshd.port} {own_sshd.host_key}"
        login = own_sshd.login(
            port=free_port(), proxy_jump=f"127.0.0.1:{own_sshd.port}", host_key=lines
        )
        with pytest.raises(Unreachable, match="could not reach"):
            make_runner(login).run("true")

    def test_the_connection_comes_back_after_the_jump_host_was_lost(
        self, sshd: SshServer, own_sshd: SshServer
    ) -> None:
        with make_runner(jumping(sshd, own_sshd)) as runner:
            runner.run("true")
            own_sshd.kill()
            own_sshd.start()
            assert runner.run("echo back").out == "back\n"
            assert runner.connections == 2


def jumping(target: SshServer, jump: SshServer, **changes: Any) -> Any:
    jump.allow((target.root / "user_key.pub").read_text())
    lines = f"{target.host_key}\n[127.0.0.1]:{jump.port} {jump.host_key}\n"
    way = f"{jump.user}@127.0.0.1:{jump.port}"
    return target.login(**{"proxy_jump": way, "host_key": lines, **changes})


class TestOpenMaster:
    def test_without_a_master_it_says_how_to_open_one(
        self, sshd: SshServer, tmp_path: Path
    ) -> None:
        runner = make_runner(sshd.login(control_path=f"{tmp_path}/it's"))
        for action in (lambda: runner.run("true"), lambda: runner.stat("/tmp")):
            with pytest.raises(Unreachable) as caught:
                action()
            command = f"-p {sshd.port} {sshd.user}@127.0.0.1"
            assert "ssh -fNM -S" in str(caught.value)
            assert str(caught.value).endswith(command)

    def test_a_master_that_has_gone_is_never_replaced_by_dialling(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        with open_master(own_sshd.login(), tmp_path) as control_path:
            runner = make_runner(own_sshd.login(control_path=str(control_path)))
            runner.run("true")
            runner.stat("/tmp")
        with pytest.raises(Unreachable, match="no master connection"):
            runner.run("true")
        with pytest.raises((Unreachable, OutcomeUnknown)):
            runner.stat("/tmp")
        runner.close()
        assert own_sshd.accepted == 1

    def test_a_master_that_stands_still_is_said_to(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        with open_master(own_sshd.login(), tmp_path) as control_path:
            login = own_sshd.login(control_path=str(control_path), connect_timeout=0.5)
            [master] = [
                process
                for process in psutil.Process().children()
                if str(control_path) in process.cmdline()
            ]
            master.suspend()
            try:
                with pytest.raises(Unreachable, match="stands still"):
                    make_runner(login).run("true")
            finally:
                master.resume()
            assert make_runner(login).run("echo in").out == "in\n"

    def test_everything_goes_over_the_masters_one_connection(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        with open_runner("openssh", own_sshd, tmp_path) as runner:
            for _ in range(5):
                runner.run("true")
                runner.stat("/tmp")
            assert runner.connections == 0
        assert own_sshd.accepted == 1

    def test_a_master_opened_anew_is_used_again(self, own_sshd: SshServer, tmp_path: Path) -> None:
        runner = make_runner(own_sshd.login(control_path=str(tmp_path / "master")))
        for _ in range(2):
            with open_master(own_sshd.login(), tmp_path):
                assert runner.run("echo in").out == "in\n"
                assert runner.stat("/tmp").is_folder
        runner.close()


class PasswordSite:
    """A server that asks for a password: OpenSSH's would need an account that has one.

    :param asks_for_more: whether the password is only the first of two factors.
    """

    def __init__(self, *, asks_for_more: bool = False) -> None:
        self._key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._asks_for_more = asks_for_more
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def refusal(self, password: str) -> str:
        """Return why a login was refused; nothing when it was not."""
        port = self._listener.getsockname()[1]
        key = f"{self._key.get_name()} {self._key.get_base64()}"
        login = Login(host="127.0.0.1", port=port, host_key=key, user="someone", password=password)
        runner = make_runner(login)
        try:
            runner._connected()  # type: ignore[attr-defined]
        except AccessRefused as error:
            return str(error)
        finally:
            runner.close()
        return ""

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(line)
            transport.add_server_key(self._key)
            # Given an event it does not wait: a client that leaves early would end this thread.
            transport.start_server(threading.Event(), _Passwords(self._asks_for_more))
            self._transports.append(transport)

    def __enter__(self) -> PasswordSite:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for transport in self._transports:
            transport.close()


class _Passwords(paramiko.ServerInterface):
    def __init__(self, asks_for_more: bool) -> None:
        self._asks_for_more = asks_for_more

    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive" if self._asks_for_more else "password"

    def check_auth_password(self, username: str, password: str) -> int:
        if (username, password) != ("someone", SECRET):
            return paramiko.AUTH_FAILED
        if self._asks_for_more:
            return paramiko.AUTH_PARTIALLY_SUCCESSFUL
        return paramiko.AUTH_SUCCESSFUL


def answers(server: SshServer, **changes: Any) -> bool:
    with make_runner(server.login(**changes)) as runner:
        return runner.run("echo in").out == "in\n"


def refusal(server: SshServer, **changes: Any) -> str:
    with make_runner(server.login(**changes)) as runner:
        with pytest.raises(AccessRefused) as caught:
            runner.run("true")
        assert runner.connections == 0
    return str(caught.value)


def fingerprint(public_key: Path) -> str:
    [known] = parse_known_hosts(public_key.read_text())
    command = ["ssh-keygen", "-lf", str(public_key)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    assert shown == known.fingerprint
    return shown
