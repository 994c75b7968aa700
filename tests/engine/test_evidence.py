from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from airflow_ensemble.engine import evidence
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.evidence import Evidence, LockHeld, find_evidence, hold_lock

HOLD = """
import sys, time
from pathlib import Path
from airflow_ensemble.engine.evidence import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    path = tmp_path / "new folder" / "x.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()


def test_before_during_and_after(tmp_path):
    path = tmp_path / "x.lock"
    assert find_evidence(path) is Evidence.NOT_STARTED
    with hold_lock(path):
        assert find_evidence(path) is Evidence.ALIVE
    assert find_evidence(path) is Evidence.ENDED


def test_another_process_is_seen_until_it_is_killed(holder):
    path, process = holder
    assert find_evidence(path) is Evidence.ALIVE
    with pytest.raises(LockHeld, match=str(process.pid)), hold_lock(path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert find_evidence(path) is Evidence.ENDED


def test_looking_never_keeps_the_owner_out(tmp_path):
    path = tmp_path / "x.lock"
    path.touch()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            find_evidence(path)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(20):
            with hold_lock(path):
                pass
    finally:
        over.set()
        looker.join()


def test_another_hosts_lock_is_alive_until_it_is_stale(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text("elsewhere 1\n")
    assert find_evidence(path) is Evidence.ALIVE
    old = time.time() - evidence.STALE_AFTER - 5
    os.utime(path, (old, old))
    assert find_evidence(path) is Evidence.ENDED


def test_a_held_lock_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "TOUCH_INTERVAL", 0.05)
    path = tmp_path / "x.lock"
    with hold_lock(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1


@pytest.mark.parametrize("act", [find_evidence, lambda path: hold_lock(path).__enter__()])
def test_a_file_system_without_locks_is_refused_and_proves_nothing(tmp_path, monkeypatch, act):
    def no_locks(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    path = tmp_path / "x.lock"
    path.touch()
    monkeypatch.setattr(evidence.fcntl, "flock", no_locks)
    with pytest.raises(UsageError, match=r"x\.lock cannot be locked .No locks.*'control'"):
        act(path)
