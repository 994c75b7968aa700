"""Wrong input for the backend ``slurm``: a clear error, exit code 2, and nothing was submitted."""

from __future__ import annotations

import pytest

from tests.cli.conftest import picture
from tests.cli.login_node import LoginNode, tools_without_slurm
from tests.ensembles import executions
from tests.services.slurm import SlurmCluster


@pytest.fixture
def node(slurm: SlurmCluster) -> LoginNode:
    slurm.reset()
    return LoginNode(slurm)


REFUSED_BY_THE_SITE = {
    "partition": ({"partition": "nowhere"}, ("nowhere", "partition")),
    "account": ({"account": "nobody"}, ("account",)),
    "time": ({"time": "half an hour"}, ("--time", "hours:minutes:seconds")),
    "time of the partition": ({"partition": "tiny", "time": "10:00:00"}, ("time",)),
    "memory": ({"mem": "10000G"}, ("mem",)),
    "option": ({"no-such-option": "1"}, ("no-such-option",)),
}


@pytest.mark.parametrize("case", REFUSED_BY_THE_SITE)
def test_what_the_site_refuses(node, case):
    execution, words = REFUSED_BY_THE_SITE[case]
    file = node.write("e", [{"id": "a"}, {"id": "b"}], execution=execution)

    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 2, ended.err
    assert "ensemble: error: " in ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err.lower()
    assert node.states() == []
    assert executions(file.parent) == []
    record = node("status", file, "--json").json
    assert record["pending"] == {"blocked": 0, "pending": 2, "dispatched": 0}
    assert record["slurm"] is None

    node.write("e", [{"id": "a"}, {"id": "b"}])
    assert node("run", file, "--wait", "--poll", "0.5").code == 0


REFUSED_BEFORE = {
    "job name": ({"job-name": "x; rm -rf ~"}, ("job-name",)),
    "line end": ({"constraint": "a\n#SBATCH --partition=urgent"}, ("constraint", "line end")),
    "owned": ({"array": "0-3"}, ("array", "n_workers")),
    "no python": ({"python": "/no/such/python"}, ("/no/such/python", "3.9")),
    "python that fails": ({"python": "/bin/false"}, ("/bin/false",)),
    "set-up line": ({"setup": ["module load nothing"]}, ("set-up line failed",)),
    "policy": ({"policies": {"time-limit": {"tmie": 2}}}, ("policies",)),
}


@pytest.mark.parametrize("case", REFUSED_BEFORE)
def test_what_is_refused_before_anything_is_written(node, case):
    execution, words = REFUSED_BEFORE[case]
    file = node.write("e", [{"id": "a"}], execution=execution)
    before = picture(node.shared)

    ended = node("run", file)

    assert ended.code == 2, ended.err
    for word in words:
        assert word in ended.err
    assert "Traceback" not in ended.err
    assert picture(node.shared) == before
    assert node.states() == []


def test_no_sbatch_on_the_path(node):
    file = node.write("e", [{"id": "a"}])
    before = picture(node.shared)
    ended = node("run", file, path=str(tools_without_slurm(node.cluster)))

    assert ended.code == 2, ended.err
    assert "Slurm" in ended.err or "sbatch" in ended.err
    assert "Traceback" not in ended.err
    assert picture(node.shared) == before


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_the_time_between_looks(node, value):
    ended = node("run", node.write("e", [{"id": "a"}]), "--wait", f"--poll={value}")

    assert ended.code == 2
    assert "--poll" in ended.err
