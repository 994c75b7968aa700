"""Output roots on a cluster: the promises of every output root, over a real SSH server."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.object_store import ObjectRoot
from airflow_ensemble.engine.recipe import Settings
from airflow_ensemble.engine.storage import SETTINGS, LocalRoot, OutputRoot, StorageError
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.errors import ClusterError
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.remote_root import RemoteRoot, open_output
from airflow_ensemble.slurm.runner import Entry, Runner
from tests.engine.test_storage import (  # noqa: F401 (they run here with this module's roots)
    FIRST,
    NAME,
    SECOND,
    a_file,
    test_a_damaged_record_is_no_free_root,
    test_a_missing_source_is_named,
    test_changed_settings_are_told_and_kept,
    test_check_writable_leaves_nothing,
    test_delete_and_replace,
    test_equal_content_may_be_published_again,
    test_list_is_by_prefix,
    test_names_stay_below_the_root,
    test_other_content_never_replaces_a_product,
    test_publish_returns_size_and_checksum_of_what_can_be_read,
    test_read_from_an_offset,
    test_the_first_ensemble_owns_the_root,
    test_what_is_not_there,
)
from tests.services.slurm import SlurmCluster
from tests.services.sshd import SshServer
from tests.slurm.ssh_places import open_runner


@pytest.fixture(scope="module", params=["paramiko", "openssh"])
def runner(
    request: pytest.FixtureRequest, sshd: SshServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    with open_runner(request.param, sshd, tmp_path_factory.mktemp("place")) as opened:
        yield opened


@pytest.fixture
def root(runner: Runner, tmp_path: Path) -> OutputRoot:
    return open_output(str(tmp_path / "output"), runner)


class CountingRunner(LocalRunner):
    """Tells which folders were listed."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []

    def list(self, folder: str) -> list[Entry]:
        self.listed.append(folder)
        return super().list(folder)


def test_opening_does_nothing_yet(sshd: SshServer) -> None:
    runner = make_runner(sshd.login())
    assert isinstance(open_output("/some/output", runner), RemoteRoot)
    assert runner.connections == 0


def test_each_kind_of_output_gets_its_root(tmp_path: Path, sshd: SshServer) -> None:
    remote = make_runner(sshd.login())
    assert isinstance(open_output(str(tmp_path), LocalRunner()), LocalRoot)
    assert isinstance(open_output("memory://bucket/prefix", remote), ObjectRoot)
    assert open_output("file:///a/b", remote).uri == "/a/b"
    with pytest.raises(UsageError, match="'results' is relative, but lies on"):
        open_output("results", remote)


def test_listing_looks_once_into_each_folder_that_may_hold_the_names(tmp_path: Path) -> None:
    for name in (".ensemble/outcomes/11111111/a.jsonl", "11111111/p/00/x", "11111111/p/01/y"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    runner = CountingRunner()
    root = RemoteRoot(str(tmp_path), runner)

    found = list(root.list(".ensemble/outcomes/11111111/a."))
    assert found == [(".ensemble/outcomes/11111111/a.jsonl", 0)]
    assert runner.listed == [f"{tmp_path}/.ensemble/outcomes/11111111"]

    runner.listed.clear()
    assert len(list(root.list("11111111/"))) == 2
    assert len(runner.listed) == len(set(runner.listed)) == 4


def test_an_unreadable_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    class Refused(LocalRunner):
        def list(self, folder: str) -> list[Entry]:
            raise PermissionError(13, "Permission denied", folder)

    with pytest.raises(StorageError, match=r"cannot list .*Permission denied"):
        list(RemoteRoot(str(tmp_path), Refused()).list(""))


def test_a_product_is_fetched_once_and_gone_with_the_process(
    sshd: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "product.nc").write_bytes(b"values" * 1000)
    (tmp_path / "login").write_text(json.dumps([sshd.port, sshd.private_key, sshd.host_key]))
    program = f"""
import json
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.remote_root import open_output
port, key, host_key = json.load(open({str(tmp_path / "login")!r}))
login = Login("127.0.0.1", port, {sshd.user!r}, private_key=key, host_key=host_key)
with make_runner(login) as runner:
    root = open_output({str(tmp_path)!r}, runner)
    path = root.fetch("product.nc")
    assert path.read_bytes() == b"values" * 1000
    runner.remove({str(tmp_path / "product.nc")!r})
    assert root.fetch("product.nc") == path
print(path)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()
    assert not Path(done.stdout.strip()).parents[1].exists()


def test_a_large_product_goes_there_and_back(
    root: OutputRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_ensemble.slurm.remote_root.BLOCK", 100_000)
    content = os.urandom(350_001)
    root.publish(a_file(tmp_path, content), NAME)

    assert root.fetch(NAME).read_bytes() == content
    assert [name for name, _ in root.list("")] == [NAME]


def test_appending_is_refused(root: OutputRoot) -> None:
    with pytest.raises(StorageError, match="only what runs there can"):
        root.append("segment.jsonl")


def test_a_root_that_cannot_be_written_is_named(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/output on .*@127\.0\.0\.1.* is not writable"):
        open_output(f"{tmp_path}/file/output", runner).check_writable()
    with pytest.raises(UsageError, match=r"/proc/output on .* is not writable"):
        open_output("/proc/output", runner).check_writable()


def test_what_goes_wrong_on_the_way_stays_what_it_is(sshd: SshServer, tmp_path: Path) -> None:
    """A cluster that is away is no missing file and no broken root."""
    runner = make_runner(sshd.login(host="no-such-host.invalid"))
    root = open_output(str(tmp_path), runner)
    for action in (root.check_writable, lambda: root.read("x"), lambda: list(root.list(""))):
        with pytest.raises(ClusterError, match="unknown here"):
            action()


def test_claims_over_ssh_and_on_the_cluster_itself_lose_no_settings(
    sshd: SshServer, tmp_path: Path
) -> None:
    settings = [Settings(model="m:f", seed=seed) for seed in range(12)]
    barrier = threading.Barrier(4)

    def claim(number: int) -> None:
        with contextlib.ExitStack() as stack:
            root: OutputRoot = LocalRoot(tmp_path)
            if number % 2:
                root = open_output(str(tmp_path), stack.enter_context(make_runner(sshd.login())))
            barrier.wait()
            for one in settings[number::4]:
                root.claim_owner("tests", one)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(claim, range(4)))
    record = json.loads((tmp_path / SETTINGS).read_text())
    assert set(record["settings"]) == {one.hash for one in settings}
    assert records(tmp_path) == {"settings.json", "settings.lock"}


def test_of_two_ensembles_at_once_one_gets_the_root(sshd: SshServer, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def claim(name: str) -> bool:
        with make_runner(sshd.login()) as runner:
            runner.run("true")
            barrier.wait()
            try:
                open_output(str(tmp_path), runner).claim_owner(name, FIRST)
            except UsageError:
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(claim, [f"e{n}" for n in range(4)])) == 1
    assert records(tmp_path) == {"settings.json", "settings.lock"}


def test_a_claim_that_is_known_already_writes_nothing(root: OutputRoot, tmp_path: Path) -> None:
    root.claim_owner("tests", SECOND)
    before = (tmp_path / "output" / SETTINGS).stat()
    assert not root.claim_owner("tests", SECOND).is_new
    after = (tmp_path / "output" / SETTINGS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_another_account_may_not_is_said_to_be(slurm: SlurmCluster) -> None:
    """As on a real cluster: the account there is not root, and not who runs this."""
    slurm.reset()
    closed = slurm.shared / f"closed-{uuid.uuid4().hex}"
    closed.mkdir(mode=0o700)
    (closed / "product").write_text("x")
    with make_runner(slurm.login()) as runner:
        root = open_output(str(closed), runner)
        with pytest.raises(UsageError, match=rf"{closed} on {slurm.user}@.*Permission denied"):
            root.check_writable()
        with pytest.raises(StorageError, match="Permission denied"):
            root.read("product")
        with pytest.raises(StorageError, match="Permission denied"):
            list(root.list(""))
        for action in (
            lambda: runner.write(f"{closed}/x", b""),
            lambda: runner.make_folders(f"{closed}/x"),
        ):
            with pytest.raises(PermissionError):
                action()

        mine = open_output(str(slurm.shared / f"mine-{uuid.uuid4().hex}"), runner)
        mine.check_writable()
        assert mine.claim_owner("tests", FIRST).is_new
        found = (Path(mine.uri) / SETTINGS).stat()
        assert pwd.getpwuid(found.st_uid).pw_name == slurm.user
    assert [path.name for path in closed.iterdir()] == ["product"]


def records(root: Path) -> set[str]:
    return {path.name for path in (root / ".ensemble").iterdir()}
