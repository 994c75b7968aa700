"""What holds of every runner: commands and files, on real places."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ensemble.slurm import remote_shell
from airflow_ensemble.slurm.errors import OutcomeUnknown
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.runner import Completed, Runner
from tests.services.sshd import SshServer
from tests.slurm.ssh_places import KINDS, open_runner

ODD = 'it\'s "quoted" $HOME `id` \\ ! * ; é\n\tnewline'


@pytest.fixture(scope="module", params=KINDS)
def runner(
    request: pytest.FixtureRequest, sshd: SshServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    with open_runner(request.param, sshd, tmp_path_factory.mktemp("place")) as opened:
        yield opened


class TestCommands:
    def test_answers_with_code_output_and_errors_apart(self, runner: Runner) -> None:
        done = runner.run("echo out; echo err >&2; exit 3")

        assert done == Completed(3, "out\n", "err\n")

    def test_runs_in_the_home_folder(self, runner: Runner) -> None:
        assert runner.run("pwd").out.strip() == str(Path.home())

    def test_gives_the_command_its_input_and_then_its_end(self, runner: Runner) -> None:
        assert runner.run("cat; echo end", input=b"one\ntwo").out == "one\ntwoend\n"

    def test_gives_a_command_without_input_an_empty_one(self, runner: Runner) -> None:
        assert runner.run("wc -c").out.strip() == "0"

    def test_carries_more_than_any_buffer_both_ways(self, runner: Runner) -> None:
        data = os.urandom(3 << 20).hex().encode()

        assert runner.run("cat", input=data).out.encode() == data

    def test_does_not_wait_to_give_input_that_nobody_reads(self, runner: Runner) -> None:
        assert runner.run("exec true", input=b"x" * (4 << 20), timeout=20).code == 0

    def test_carries_bytes_that_are_no_text(self, runner: Runner) -> None:
        assert runner.run("printf 'a\\377b'").out == "a\ufffdb"

    def test_tells_a_command_that_a_signal_ended(self, runner: Runner) -> None:
        assert runner.run("kill -TERM $$").code == 128 + 15
        assert runner.run("kill -9 $$").code == 128 + 9

    @pytest.mark.parametrize("code", [0, 1, 127, 254, 255])
    def test_never_takes_a_code_for_a_broken_connection(self, runner: Runner, code: int) -> None:
        assert runner.run(f"exit {code}").code == code

    def test_says_that_a_program_is_not_there(self, runner: Runner) -> None:
        done = runner.run("no-such-program-at-all --version")

        assert done.code == 127
        assert "not found" in done.err

    def test_hands_over_scripts_of_several_lines(self, runner: Runner) -> None:
        done = runner.run("for i in 1 2; do\n  echo $i\ndone\n# the end\n")

        assert done.out == "1\n2\n"

    def test_hands_over_quoted_text_unchanged(self, runner: Runner) -> None:
        assert runner.run(f"printf %s {shlex.quote(ODD)}").out == ODD

    def test_gives_up_after_its_time_and_says_that_it_does_not_know(self, runner: Runner) -> None:
        begin = time.monotonic()
        with pytest.raises(OutcomeUnknown, match=r"did not end within 0\.5 s"):
            runner.run("sleep 20", timeout=0.5)
        assert time.monotonic() - begin < 5
        assert runner.run("echo still here").out == "still here\n"

    def test_serves_many_commands_over_one_connection(self, runner: Runner) -> None:
        runner.run("true")
        before = runner.connections
        for _ in range(20):
            runner.run("true")
        assert runner.connections == before <= 1


class TestFiles:
    def test_writes_what_it_reads(self, runner: Runner, tmp_path: Path) -> None:
        path = str(tmp_path / "it's a $name")
        runner.write(path, b"one\0two\n")

        assert runner.read(path) == b"one\0two\n"
        assert runner.stat(path).size == 8
        assert [entry.name for entry in runner.list(str(tmp_path))] == ["it's a $name"]

    def test_carries_large_files_unchanged(self, runner: Runner, tmp_path: Path) -> None:
        data = os.urandom((3 << 20) + 17)
        runner.write(f"{tmp_path}/large", data)

        assert (tmp_path / "large").read_bytes() == data
        assert runner.read(f"{tmp_path}/large") == data
        assert runner.read(f"{tmp_path}/large", 1 << 20, 1 << 20) == data[1 << 20 : 2 << 20]

    def test_reads_from_an_offset_on(self, runner: Runner, tmp_path: Path) -> None:
        path = tmp_path / "growing"
        path.write_bytes(b"0123456789")

        assert runner.read(str(path), 4) == b"456789"
        assert runner.read(str(path), 4, 3) == b"456"
        assert runner.read(str(path), 8, 50) == b"89"
        assert runner.read(str(path), 10) == b""
        assert runner.read(str(path), 99, 5) == b""

    def test_replaces_a_file_in_one_step(self, runner: Runner, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with path.open("rb") as reader:
            runner.write(str(path), b"new and longer")
            assert reader.read() == b"old"
        assert path.read_bytes() == b"new and longer"
        assert names(tmp_path) == ["file"]

    def test_gives_new_files_their_mode_within_the_umask(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        for mode in (0o644, 0o755, 0o600):
            runner.write(f"{tmp_path}/file", b"", mode=mode)
            expected = mode & ~_umask()
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected

    def test_appends_and_makes_what_is_not_there(self, runner: Runner, tmp_path: Path) -> None:
        runner.append(f"{tmp_path}/log", b"one\n")
        runner.append(f"{tmp_path}/log", b"two\n")

        assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"

    def test_makes_folders_and_finds_those_that_are_there(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        for _ in range(2):
            runner.make_folders(f"{tmp_path}/a/b/c")
        (tmp_path / "link").symlink_to(tmp_path / "a")
        runner.make_folders(f"{tmp_path}/link")
        runner.make_folders(f"{tmp_path}/link/d")

        assert runner.stat(f"{tmp_path}/a/b/c").is_folder
        assert (tmp_path / "a/d").is_dir()

    def test_refuses_a_folder_where_a_file_is(self, runner: Runner, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError):
            runner.make_folders(f"{tmp_path}/file")

    def test_renames_files_and_folders(self, runner: Runner, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder/inside").touch()
        runner.rename(f"{tmp_path}/file", f"{tmp_path}/file2")
        runner.rename(f"{tmp_path}/folder", f"{tmp_path}/folder2")

        assert names(tmp_path) == ["file2", "folder2"]
        assert (tmp_path / "folder2/inside").exists()

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_never_renames_over_something(self, runner: Runner, tmp_path: Path, kind: str) -> None:
        for name in ("source", "target"):
            if kind == "folder":
                (tmp_path / name).mkdir()
            else:
                (tmp_path / name).write_text(name)
        with pytest.raises(FileExistsError):
            runner.rename(f"{tmp_path}/source", f"{tmp_path}/target")

        assert names(tmp_path) == ["source", "target"]

    def test_removes_a_file_that_is_there_or_not(self, runner: Runner, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for _ in range(2):
            runner.remove(f"{tmp_path}/file")
        assert names(tmp_path) == []

    def test_removes_no_folder(self, runner: Runner, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match="directory"):
            runner.remove(f"{tmp_path}/folder")
        assert (tmp_path / "folder").is_dir()

    def test_lists_what_is_there(self, runner: Runner, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / ".hidden").write_bytes(b"12")
        (tmp_path / "link").symlink_to(tmp_path / "folder")
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        for number in range(300):
            (tmp_path / f"file-{number}").touch()
        found = {entry.name: entry for entry in runner.list(str(tmp_path))}

        assert len(found) == 303
        assert found["folder"].is_folder
        assert found["link"].is_folder
        assert not found[".hidden"].is_folder
        assert found[".hidden"].size == 2
        assert abs(found[".hidden"].modified - time.time()) < 60

    def test_lists_past_names_that_are_no_text(self, runner: Runner, tmp_path: Path) -> None:
        Path(os.fsdecode(bytes(tmp_path) + b"/M\xfcnchen.nc")).touch()
        (tmp_path / "Zürich.nc").touch()

        found = [entry.name for entry in runner.list(str(tmp_path))]
        assert len(found) == 2
        assert "Zürich.nc" in found

    @pytest.mark.parametrize(
        "action",
        [
            lambda runner, path: runner.read(path),
            lambda runner, path: runner.stat(path),
            lambda runner, path: runner.list(path),
            lambda runner, path: runner.rename(path, path + "2"),
            lambda runner, path: runner.write(path + "/file", b""),
            lambda runner, path: runner.append(path + "/file", b""),
        ],
    )
    def test_names_what_is_not_there(self, runner: Runner, tmp_path: Path, action: object) -> None:
        assert callable(action)
        with pytest.raises(FileNotFoundError) as caught:
            action(runner, f"{tmp_path}/gone")
        assert f"{tmp_path}/gone" in str(caught.value)

    def test_tells_files_from_folders(self, runner: Runner, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            runner.list(f"{tmp_path}/file")
        with pytest.raises(IsADirectoryError):
            runner.read(str(tmp_path))

    def test_says_that_it_may_not(self, runner: Runner) -> None:
        # Even root may write nothing here.
        with pytest.raises(OSError, match="/proc/") as caught:
            runner.write("/proc/sys/nothing-can-be-made-here", b"")
        assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.ENOENT)

    def test_says_that_the_disk_is_full_and_leaves_nothing_half_written(
        self, runner: Runner, small_disk: Path
    ) -> None:
        (small_disk / "file").write_text("as it was")
        with pytest.raises(OSError, match="No space left on device") as caught:
            runner.write(f"{small_disk}/file", b"x" * (2 << 20))

        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == f"{small_disk}/file"
        assert names(small_disk) == ["file"]
        assert (small_disk / "file").read_text() == "as it was"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"this test mounts a small file system, as root: {done.stderr}"
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestQuoting:
    @given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))))
    @settings(max_examples=50)
    def test_the_local_shell_gets_quoted_text_unchanged(self, text: str) -> None:
        assert LocalRunner().run(f"printf %s {shlex.quote(text)}").out == text

    @given(
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))),
        st.binary(max_size=200),
        st.integers(0, 255),
    )
    @settings(max_examples=50)
    def test_a_wrapped_script_reaches_the_inner_shell_unchanged(
        self, text: str, data: bytes, code: int
    ) -> None:
        command, before = remote_shell.wrap(
            f"printf %s {shlex.quote(text)}; wc -c >&2; exit {code}"
        )
        done = subprocess.run(
            ["/bin/sh", "-c", command], input=before + data, capture_output=True, check=False
        )

        found = remote_shell.unwrap(done.stdout, done.stderr)
        assert found is not None
        assert (found.code, found.out, found.err.strip()) == (code, text, str(len(data)))

    @pytest.mark.parametrize("shell", ["tcsh", "bash", "sh"])
    def test_a_shell_that_took_the_place_of_ours_runs_nothing_of_the_script(
        self, shell: str, tmp_path: Path
    ) -> None:
        command, script = remote_shell.wrap("echo it runs; touch it-runs\n")
        # As ~/.bashrc does it: the command is forgotten, and what was for it is read instead.
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec {shell}; {command}"],
            input=script,
            capture_output=True,
            cwd=tmp_path,
            check=False,
        )

        assert done.stdout == b""
        assert list(tmp_path.iterdir()) == []
        assert "exec tcsh" in remote_shell.refusal("hpc", done.stdout, done.stderr)

    @pytest.mark.parametrize(
        ("out", "err"),
        [
            (b"", b""),
            (b"Last login: today\n", b""),
            (b"--ensemble-worker-at-work--\nhalf of the ou", b""),
            (b"--ensemble-worker-at-work--\n", b"\n--ensemble-worker-at-work-- "),
            (b"", b"\n--ensemble-worker-at-work-- 0\n"),
        ],
    )
    def test_what_broke_off_is_no_answer(self, out: bytes, err: bytes) -> None:
        assert remote_shell.unwrap(out, err) is None


class TestLocalRunner:
    def test_adds_its_environment_to_commands(self) -> None:
        assert LocalRunner({"COLOUR": "blue"}).run('echo "$COLOUR $PATH"').out.startswith("blue /")

    def test_ends_everything_that_a_command_started(self, tmp_path: Path) -> None:
        script = f"(sleep 3; touch {tmp_path}/late) & sleep 20"
        with pytest.raises(OutcomeUnknown):
            LocalRunner().run(script, timeout=0.3)
        time.sleep(3.2)
        assert not (tmp_path / "late").exists()

    def test_is_this_machine(self) -> None:
        assert LocalRunner().place == "this machine"

    def test_only_one_of_many_renames_to_a_name(self, tmp_path: Path) -> None:
        won = []

        def rename(number: int) -> None:
            source = tmp_path / f"source-{number}"
            source.write_text(str(number))
            try:
                LocalRunner().rename(str(source), f"{tmp_path}/target")
            except FileExistsError:
                return
            won.append(str(number))

        threads = [threading.Thread(target=rename, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(tmp_path / "target").read_text()] == won


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _umask() -> int:
    found = os.umask(0o022)
    os.umask(found)
    return found
