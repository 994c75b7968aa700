"""Output roots: the same promises on a local root, a memory store and a real S3 server."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine import object_store, storage
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.object_store import ObjectRoot
from airflow_ensemble.engine.recipe import ProductSpec, Settings
from airflow_ensemble.engine.storage import (
    SETTINGS,
    LocalRoot,
    NotInRoot,
    OutputRoot,
    StorageError,
    check_name,
    local_path,
    log_name,
    open_root,
    pack_name,
    product_name,
    segment_name,
    segments_prefix,
    shard,
)
from tests.engine.strategies import ids, tokens
from tests.services.s3 import S3Server

FIRST = Settings(model="model:simulate", products=(ProductSpec("values"),))
SECOND = Settings(model="model:simulate", products=(ProductSpec("values"),), seed=7)
NAME = "0a595b15/values/f3/one.token.nc"


@pytest.fixture(params=["local", "memory", "s3"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OutputRoot:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "local":
        return open_root(tmp_path / "output")
    if request.param == "memory":
        return open_root(f"memory://{tmp_path.name}-{time.time_ns()}/some/prefix/")
    server: S3Server = request.getfixturevalue("s3")
    return open_root(f"{server.make_bucket()}/some/prefix")


@pytest.fixture
def local(tmp_path: Path) -> LocalRoot:
    return LocalRoot(tmp_path / "output")


def a_file(tmp_path: Path, content: bytes = b"values", name: str = "product.nc") -> Path:
    path = tmp_path / "workdir" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# --- publishing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"values", b"x" * (3 << 20)], ids=len)
def test_publish_returns_size_and_checksum_of_what_can_be_read(
    root: OutputRoot, tmp_path: Path, content: bytes
) -> None:
    found = root.publish(a_file(tmp_path, content), NAME)
    assert found == (len(content), checksum(content))
    assert root.read(NAME) == content
    assert root.fetch(NAME).read_bytes() == content
    assert list(root.list("0a595b15/")) == [(NAME, len(content))]


def test_equal_content_may_be_published_again(root: OutputRoot, tmp_path: Path) -> None:
    first = root.publish(a_file(tmp_path), NAME)
    assert root.publish(a_file(tmp_path), NAME) == first
    assert [name for name, _ in root.list("")] == [NAME]


def test_other_content_never_replaces_a_product(root: OutputRoot, tmp_path: Path) -> None:
    root.publish(a_file(tmp_path), NAME)
    with pytest.raises(StorageError, match=r"one\.token\.nc exists with other content"):
        root.publish(a_file(tmp_path, b"others"), NAME)
    assert root.read(NAME) == b"values"


def test_a_missing_source_is_named(root: OutputRoot, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.nc"):
        root.publish(tmp_path / "gone.nc", NAME)
    assert not root.exists(NAME)


def test_a_local_product_is_moved_not_copied(local: LocalRoot, tmp_path: Path) -> None:
    source = a_file(tmp_path)
    inode = source.stat().st_ino
    local.publish(source, NAME)
    assert (local.path / NAME).stat().st_ino == inode
    assert not source.exists()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_input_that_a_model_links_is_copied(
    local: LocalRoot, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    given_file = a_file(tmp_path, name="input.nc")
    product = tmp_path / "workdir" / "product.nc"
    link(given_file, product)
    local.publish(product, NAME)
    given_file.write_bytes(b"changed later")
    assert local.read(NAME) == b"values"
    assert not (local.path / NAME).is_symlink()


def test_across_file_systems_a_whole_copy_appears(local: LocalRoot, tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    assert shm.stat().st_dev != tmp_path.stat().st_dev, "needs two file systems"
    source = shm / f"ensemble-test-{os.getpid()}.nc"
    source.write_bytes(b"y" * 100_000)
    try:
        assert local.publish(source, NAME) == (100_000, checksum(b"y" * 100_000))
        source.write_bytes(b"others")
        with pytest.raises(StorageError, match="exists with other content"):
            local.publish(source, NAME)
    finally:
        source.unlink(missing_ok=True)
    assert [name for name, _ in local.list("")] == [NAME]


def test_without_hard_links_a_product_is_renamed(
    local: LocalRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    local.publish(a_file(tmp_path), NAME)
    local.publish(a_file(tmp_path), NAME)
    with pytest.raises(StorageError, match="exists with other content"):
        local.publish(a_file(tmp_path, b"others"), NAME)
    assert local.read(NAME) == b"values"


def test_of_many_publishers_of_one_name_one_wins(local: LocalRoot, tmp_path: Path) -> None:
    sources = [a_file(tmp_path, b"%d" % n * 1000, f"{n}.nc") for n in range(16)]

    def publish(source: Path) -> bytes | None:
        content = source.read_bytes()
        try:
            local.publish(source, NAME)
        except StorageError:
            return None
        return content

    with ThreadPoolExecutor(8) as pool:
        winners = [content for content in pool.map(publish, sources) if content]
    assert winners == [local.read(NAME)]


def test_a_killed_copy_leaves_no_product(tmp_path: Path) -> None:
    """The writer dies in the middle of a copy: what appears later is whole or absent."""
    code = f"""
import os, sys
from pathlib import Path
from airflow_ensemble.engine import storage
real = storage.measure
def dying(stream, copy=None):
    if copy is not None:
        copy.write(b"half"); copy.flush(); os._exit(9)
    return real(stream, copy)
storage.measure = dying
source = Path({str(tmp_path)!r}) / "product.nc"
source.write_bytes(b"whole")
os.link(source, source.with_name("input.nc"))
storage.open_root({str(tmp_path / "output")!r}).publish(source, {NAME!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    root = open_root(tmp_path / "output")
    assert not root.exists(NAME)
    leftovers = [name for name, _ in root.list("")]
    assert len(leftovers) == 1
    assert leftovers[0].endswith(".tmp")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../other", "a/../../b", "a\0b"])
def test_names_stay_below_the_root(root: OutputRoot, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name below"):
        root.publish(a_file(tmp_path), name)
    with pytest.raises(ValueError, match="not a name below"):
        root.read(name)


# --- reading, listing, deleting -------------------------------------------------------------------


def test_read_from_an_offset(root: OutputRoot) -> None:
    root.write_text("file", "0123456789")
    assert root.read("file", 3) == b"3456789"
    assert root.read("file", 3, 4) == b"3456"
    assert root.read("file", 8, 100) == b"89"
    assert root.read("file", 10) == b""
    assert root.read("file", 99, 5) == b""


def test_what_is_not_there(root: OutputRoot) -> None:
    for look in (root.read, root.fetch, root.modified):
        with pytest.raises(NotInRoot, match="missing"):
            look("missing")
    with pytest.raises(FileNotFoundError):
        root.read("missing", 5)
    assert not root.exists("missing")
    root.delete("missing")
    assert list(root.list("")) == []
    assert list(root.list("missing/deeper/")) == []


def test_list_is_by_prefix(root: OutputRoot) -> None:
    names = ["a/1", "a/2", "ab/1", "b/c/1", "c"]
    for name in names:
        root.write_text(name, name)
    assert sorted(name for name, _ in root.list("")) == names
    assert [name for name, _ in root.list("a")] == ["a/1", "a/2", "ab/1"]
    assert [name for name, _ in root.list("a/")] == ["a/1", "a/2"]
    assert [name for name, _ in root.list("b/c/1")] == ["b/c/1"]
    assert dict(root.list("ab/")) == {"ab/1": 4}


def test_delete_and_replace(root: OutputRoot) -> None:
    root.write_text("deep/file", "old")
    root.write_text("deep/file", "newer")
    assert root.read("deep/file") == b"newer"
    assert abs(root.modified("deep/file") - time.time()) < 60
    root.delete("deep/file")
    assert not root.exists("deep/file")


def test_an_unreadable_folder_is_not_an_empty_one(
    local: LocalRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.write_text("folder/file", "text")

    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"cannot list .*Permission denied"):
        list(local.list(""))


# --- appending ------------------------------------------------------------------------------------


def read_segment(root: OutputRoot, prefix: str) -> bytes:
    return b"".join(root.read(name) for name, _ in sorted(root.list(prefix)))


def test_lines_arrive_in_order(root: OutputRoot) -> None:
    lines = [b'{"n": %d}\n' % n for n in range(100)]
    appender = root.append(segment_name("0a595b15", "b-0001", 1, "t"))
    for line in lines:
        appender.write(line)
        appender.sync()
    appender.close()
    appender.close()
    assert read_segment(root, segments_prefix("0a595b15", "b-0001")) == b"".join(lines)
    with pytest.raises(ValueError, match="closed"):
        appender.write(b"late\n")


def test_a_local_line_is_in_the_file_at_once(local: LocalRoot) -> None:
    appender = local.append("segment.jsonl")
    appender.write(b"line\n")
    assert local.read("segment.jsonl") == b"line\n"
    appender.close()


def test_two_local_appenders_do_not_overwrite_each_other(local: LocalRoot) -> None:
    first, second = local.append("segment.jsonl"), local.append("segment.jsonl")
    first.write(b"one\n")
    second.write(b"two\n")
    first.write(b"three\n")
    first.close()
    second.close()
    assert local.read("segment.jsonl") == b"one\ntwo\nthree\n"


def test_a_full_disk_is_said_so() -> None:
    appender = storage.LocalAppender(Path("/dev/full"))
    with pytest.raises(StorageError, match="/dev/full: No space left"):
        appender.write(b"line\n")


def test_objects_follow_bytes_not_simulations(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small outcomes, synced after each: one object, that grows, and few puts."""
    root = open_root(s3.make_bucket())
    puts = count_puts(root, monkeypatch)
    appender = root.append("segment.jsonl")
    for n in range(500):
        appender.write(b"%04d\n" % n)
        appender.sync()
    appender.close()
    assert list(root.list("segment")) == [("segment.0001.jsonl", 2500)]
    assert len(puts) == 2


def test_a_growing_object_can_be_read_by_offset(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "SYNC_INTERVAL", 0.0)
    monkeypatch.setattr(object_store, "PART_SIZE", 64)
    root = open_root(s3.make_bucket())
    appender = root.append("segment.jsonl")
    offsets: dict[str, int] = {}
    seen = b""
    for n in range(40):
        appender.write(b"line %04d\n" % n)
        appender.sync()
        for name, size in root.list("segment."):
            seen += root.read(name, offsets.get(name, 0), size - offsets.get(name, 0))
            offsets[name] = size
    appender.close()
    assert seen == b"".join(b"line %04d\n" % n for n in range(40))
    assert len(offsets) == 7
    assert all(size <= 64 and size % 10 == 0 for size in offsets.values())


def count_puts(root: OutputRoot, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    assert isinstance(root, ObjectRoot)
    puts: list[str] = []
    real = root.put
    monkeypatch.setattr(root, "put", lambda name, data: (puts.append(name), real(name, data)))
    return puts


# --- a store that fails now and then --------------------------------------------------------------


def test_temporary_errors_of_a_store_are_tried_again(
    flaky_s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every tenth put fails; 40 products and a segment arrive all the same."""
    monkeypatch.setattr(object_store, "FIRST_DELAY", 0.01)
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    root = open_root(flaky_s3.make_bucket())
    for n in range(40):
        root.publish(a_file(tmp_path, b"%d" % n), f"p/{n:02d}.t.nc")
    assert [root.read(f"p/{n:02d}.t.nc") for n in range(40)] == [b"%d" % n for n in range(40)]
    assert "(try 1 of 6)" in caplog.text


def test_a_store_that_goes_on_failing_is_given_up(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "FIRST_DELAY", 0.001)
    root = open_root(s3.make_bucket())
    assert isinstance(root, ObjectRoot)
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise OSError("503 slow down")

    with pytest.raises(StorageError, match=r"cannot write it: OSError: 503 slow down"):
        root._retry("cannot write it", fail)
    assert len(tries) == object_store.ATTEMPTS


def test_refusals_are_not_tried_again(s3: S3Server) -> None:
    root = open_root(s3.make_bucket())
    assert isinstance(root, ObjectRoot)
    tries: list[int] = []

    def refuse() -> None:
        tries.append(1)
        raise PermissionError("access denied")

    with pytest.raises(StorageError, match="access denied"):
        root._retry("cannot write it", refuse)
    assert len(tries) == 1


def test_a_forked_process_has_a_connection_of_its_own(s3: S3Server) -> None:
    root = open_root(s3.make_bucket())
    root.write_text("parent", "text")
    pid = os.fork()
    if pid == 0:
        try:
            root.write_text("child", root.read("parent").decode())
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert root.read("child") == b"text"


def test_a_fetched_object_is_fetched_once(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    root = open_root(s3.make_bucket())
    root.publish(a_file(tmp_path), NAME)
    first = root.fetch(NAME)
    root.delete(NAME)
    assert root.fetch(NAME) == first
    assert first.is_relative_to(tmp_path / "cache")


# --- writable, owner ------------------------------------------------------------------------------


def test_check_writable_leaves_nothing(root: OutputRoot) -> None:
    root.check_writable()
    assert list(root.list("")) == []


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(UsageError, match=r"file/output is not writable: Not a directory"):
        open_root(blocker / "output").check_writable()


def test_a_root_of_a_system_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="/proc/output is not writable"):
        open_root("/proc/output").check_writable()


def test_a_missing_bucket_is_named(s3: S3Server) -> None:
    with pytest.raises(UsageError, match=r"s3://no-such-bucket/x is not writable.*bucket exists"):
        open_root("s3://no-such-bucket/x").check_writable()


def test_the_first_ensemble_owns_the_root(root: OutputRoot) -> None:
    assert root.check_owner("tests", FIRST).is_new
    claim = root.claim_owner("tests", FIRST)
    assert (claim.is_new, claim.previous, claim.message) == (True, None, "")
    before = root.read(SETTINGS)
    for refused in (root.check_owner, root.claim_owner):
        with pytest.raises(UsageError, match="belongs to the ensemble 'tests', not to 'others'"):
            refused("others", FIRST)
    assert root.read(SETTINGS) == before


def test_changed_settings_are_told_and_kept(root: OutputRoot) -> None:
    root.claim_owner("tests", FIRST)
    changed = root.claim_owner("tests", SECOND)
    assert changed.is_new
    assert changed.previous == FIRST.hash
    assert changed.message.startswith("settings changed since the last run")
    assert f"results under {FIRST.hash[:8]}/ stay and are not reused" in changed.message
    assert root.claim_owner("tests", SECOND).message == ""
    back = root.claim_owner("tests", FIRST)
    assert (back.is_new, back.previous) == (False, SECOND.hash)
    record = json.loads(root.read(SETTINGS))
    assert record["ensemble"] == "tests"
    assert {key: value["settings"] for key, value in record["settings"].items()} == {
        FIRST.hash: json.loads(json.dumps(FIRST.as_dict())),
        SECOND.hash: json.loads(json.dumps(SECOND.as_dict())),
    }
    assert all(entry["first_used"] > 0 for entry in record["settings"].values())


def test_an_unchanged_claim_writes_nothing(local: LocalRoot) -> None:
    local.claim_owner("tests", FIRST)
    before = (local.path / SETTINGS).stat()
    local.claim_owner("tests", FIRST)
    assert (local.path / SETTINGS).stat() == before


def test_concurrent_claims_lose_no_settings(local: LocalRoot) -> None:
    settings = [Settings(model="m:f", seed=seed) for seed in range(24)]
    barrier = threading.Barrier(8)

    def claim(some: list[Settings]) -> None:
        root = LocalRoot(local.path)
        barrier.wait()
        for one in some:
            root.claim_owner("tests", one)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(claim, [settings[n::8] for n in range(8)]))
    record = json.loads(local.read(SETTINGS))
    assert set(record["settings"]) == {one.hash for one in settings}


def test_of_two_ensembles_at_once_one_gets_the_root(local: LocalRoot) -> None:
    barrier = threading.Barrier(8)

    def claim(name: str) -> bool:
        barrier.wait()
        try:
            LocalRoot(local.path).claim_owner(name, FIRST)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, [f"e{n}" for n in range(8)])) == 1


def test_a_claim_works_where_files_cannot_be_locked(
    local: LocalRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", no_locks)
    assert local.claim_owner("tests", FIRST).is_new


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1, "ensemble": 3, "settings": {}, "last": ""}']
)
def test_a_damaged_record_is_no_free_root(root: OutputRoot, text: str) -> None:
    root.write_text(SETTINGS, text)
    with pytest.raises(UsageError, match=r"settings\.json cannot be read"):
        root.claim_owner("tests", FIRST)
    assert root.read(SETTINGS).decode() == text


def test_a_newer_record_is_refused(local: LocalRoot) -> None:
    local.claim_owner("tests", FIRST)
    record = {**json.loads(local.read(SETTINGS)), "format": 2}
    local.write_text(SETTINGS, json.dumps(record))
    with pytest.raises(UsageError, match="has format 2, this version reads 1"):
        local.check_owner("tests", FIRST)


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/x", r"scheme 'ftp://' is unknown: use a path, file://, s3://"),
        ("s3:///prefix", r"not of the form s3://bucket/prefix"),
        ("memory://", r"not of the form memory://bucket/prefix"),
        ("file://host/x", r"not a local file URI: write file:///absolute/path"),
        ("s3://b::s3://c", r"not of the form"),
    ],
)
def test_what_is_no_output_root(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_root(uri)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="holds credentials") as refusal:
        open_root("s3://AKIAKEY:hunter2@bucket/x")
    assert "hunter2" not in str(refusal.value)
    assert "AKIAKEY" not in str(refusal.value)


def test_a_missing_driver_names_the_extra() -> None:
    code = """
import sys
sys.modules["s3fs"] = None
from airflow_ensemble.engine.storage import open_root
open_root("s3://bucket/x")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the Python package 's3fs'" in done.stderr
    assert "airflow-provider-ensemble[s3]" in done.stderr


def test_the_local_root_needs_the_standard_library_alone() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fsspec", "yaml", "pyarrow", "numpy"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from airflow_ensemble.engine import ensemble, storage
from airflow_ensemble.engine.ensemble import table
print(storage.open_root("/x").uri)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("/x\n", "")


def test_local_uris_and_paths_are_one_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "a b")
    for uri in ("a b", expected, f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a b"):
        assert open_root(uri).uri == expected


# --- layout ---------------------------------------------------------------------------------------


@given(id=ids, token=tokens)
def test_names_hold_hash_shard_id_and_token(id: str, token: str) -> None:
    name = product_name("0a595b15", "footprint", id, token, ".nc")
    assert name == f"0a595b15/footprint/{shard(id)}/{id}.{token}.nc"
    assert check_name(name) == name
    assert log_name("0a595b15", id, token).startswith("0a595b15/logs/")
    assert segment_name("0a595b15", "c", 2, token).startswith(segments_prefix("0a595b15", "c"))
    assert pack_name("0a595b15", "worker", token) == f"0a595b15/logs/worker.{token}.pack"


@given(st.lists(ids, min_size=2, max_size=2, unique=True), tokens)
def test_different_simulations_never_share_a_name(two: list[str], token: str) -> None:
    assert len({product_name("0" * 8, "p", id, token, ".nc") for id in two}) == 2


def test_the_longest_id_fits_into_a_file_name(local: LocalRoot, tmp_path: Path) -> None:
    name = product_name("0a595b15", "p", "x" * 200, "f" * 32, ".parquet")
    local.publish(a_file(tmp_path), name)
    assert local.exists(name)


@pytest.mark.parametrize("suffix", ["nc", "./x", ".n c", ".a\n", "/.nc"])
def test_a_suffix_is_a_suffix(suffix: str) -> None:
    with pytest.raises(ValueError, match="no file name suffix"):
        product_name("0" * 8, "p", "id", "t", suffix)


def test_shards_spread_simulations() -> None:
    counts: dict[str, int] = {}
    for n in range(10_000):
        counts[shard(f"sim-{n}")] = counts.get(shard(f"sim-{n}"), 0) + 1
    assert len(counts) == 256
    assert max(counts.values()) < 100


def test_a_home_folder_that_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match="'~no-such-user/x' begins with a home folder that is not"):
        local_path("~no-such-user/x")
