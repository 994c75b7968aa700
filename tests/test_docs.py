"""The documentation builds without a warning, and says what the program says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.cli import main
from airflow_ensemble.cli.commands import COMMANDS
from airflow_ensemble.engine.ensemble import KEYS, Ensemble, build
from airflow_ensemble.engine.ensemble.blocks import FUTURE
from airflow_ensemble.engine.ensemble.execution import _READERS
from airflow_ensemble.engine.ensemble.kubernetes import KEYS as KUBERNETES_KEYS
from airflow_ensemble.engine.ensemble.schema import RESERVED, RESOURCES
from airflow_ensemble.engine.ensemble.yaml_text import parse_yaml
from airflow_ensemble.engine.simulation import ProductStatus, Reason, Status
from tests.cli.login_node import LoginNode
from tests.services.slurm import SlurmCluster

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.rst"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_command_is_described(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text()
    assert COMMANDS
    assert [c.name for c in COMMANDS if f'id="ensemble-{c.name}"' not in page] == []


def test_every_status_and_reason_is_described() -> None:
    page = (DOCS / "reference" / "statuses.rst").read_text()
    for kind in (Status, ProductStatus, Reason):
        assert [member.value for member in kind if f"``{member.value}``" not in page] == []


@dataclass(frozen=True)
class Key:
    """What the reference says of one key of the ensemble file."""

    name: str
    default: str
    example: str


def documented_keys() -> list[Key]:
    text = (DOCS / "reference" / "ensemble-file.rst").read_text()
    entry = re.compile(
        r"^\.\. confval:: (\w+)\n   :type: .+\n   :default: (.+)\n((?:   .*\n|\n)+)", re.MULTILINE
    )
    return [
        Key(
            name,
            default.strip("`") if default.startswith("`") else f"({default})",
            textwrap.dedent(body.partition(".. code-block:: yaml\n")[2]),
        )
        for name, default, body in entry.findall(text)
    ]


def build_file(text: str) -> Ensemble:
    minimal = "name: x\nmodel: m:f\nsimulations: t.csv\nproducts: [p]\noutput: o\n"
    values = {**parse_yaml(minimal, "minimal"), **(parse_yaml(text, "example") if text else {})}
    if "command" in values:
        values.pop("model")
    return build(ROOT / "ensemble.yaml", values)


def test_every_key_of_the_ensemble_file_is_described_once() -> None:
    assert sorted(key.name for key in documented_keys()) == sorted(KEYS)


@pytest.mark.parametrize("key", documented_keys(), ids=lambda key: key.name)
def test_example_of_key_is_valid(key: Key) -> None:
    assert key.name in parse_yaml(key.example, "example")
    build_file(key.example)


@pytest.mark.parametrize(
    "key",
    [key for key in documented_keys() if re.fullmatch(r'[\w.]+|"\w*"|\{\}', key.default)],
    ids=lambda key: key.name,
)
def test_default_of_key_is_the_real_one(key: Key) -> None:
    assert build_file(f"{key.name}: {key.default}") == build_file("")


def test_execution_keys_columns_and_resources_are_described() -> None:
    text = (DOCS / "reference" / "ensemble-file.rst").read_text()
    for name in (*_READERS, *KUBERNETES_KEYS, *RESERVED, *FUTURE, *RESOURCES):
        assert f"``{name}``" in text


def test_tests_named_in_the_documentation_exist() -> None:
    named = re.compile(r"``(tests/[\w/]+\.py)::(\w+)``")
    found = [
        (path.name, file, name) for path in PAGES for file, name in named.findall(path.read_text())
    ]
    assert len(found) > 20
    missing = [
        (page, file, name)
        for page, file, name in found
        if not (ROOT / file).is_file() or f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_readme_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def console_blocks(page: Path) -> list[tuple[bool, list[str]]]:
    """Return the commands of each console block, and whether the page says that they fail."""
    block = re.compile(
        r"^\.\. code-block:: console\n((?:   :\w+: .*\n)*)\n((?:   .*\n|\n)+)", re.MULTILINE
    )
    return [
        (":class: fails" in options, re.findall(r"^   \$ (.+)$", body, re.MULTILINE))
        for options, body in block.findall(page.read_text())
    ]


def tutorial_script(page: Path, after_cd: str = "true") -> str:
    """Return a shell script of a tutorial's commands, each with the exit code that it must have.

    :param after_cd: run once in the folder of the ensemble, before the next command.
    """
    script = ["set -euo pipefail"]
    for fails, commands in console_blocks(page):
        for command in commands:
            if command.startswith("pip "):
                continue
            expected = 1 if fails and command == "ensemble run" else 0
            if command.startswith("cd "):
                script += [command, after_cd]
                continue
            script += [f"code=0; {command} || code=$?", f"test $code = {expected}"]
    assert len(script) > 20
    return "\n".join(script)


def test_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-x", "-c", tutorial_script(DOCS / "tutorial.rst")],
        cwd=tmp_path,
        env={"PATH": f"{bin_folder}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "traceback" in done.stdout.lower()


def test_slurm_tutorial_works_as_it_is_written(slurm: SlurmCluster) -> None:
    slurm.reset()
    node = LoginNode(slurm)
    command = shlex.join(node.program)
    program = slurm.shared / "bin" / "ensemble"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    # The one thing that depends on the site: where it keeps an interpreter.
    python = f"echo '  python: {slurm.python}' >> ensemble.yaml"
    script = tutorial_script(DOCS / "tutorial-slurm.rst", after_cd=python)
    run = f"PATH={program.parent}:$PATH exec bash -x -c {shlex.quote(script)} </dev/null"
    done = slurm.run(run, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted 2 array elements" in done.stdout
    assert "#SBATCH --time=00:10:00" in done.stdout
    assert sorted(
        path.stem.split(".")[0] for path in slurm.shared.glob("walks/output/*/track/*/*")
    ) == ["breeze", "calm", "storm", "wind"]


def test_readme_ensemble_file_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert build_file(text.strip() + "\n").name == "footprints"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_python_examples_can_be_parsed(page: Path) -> None:
    text = page.read_text()
    fenced = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    directives = re.findall(
        r"^\.\. code-block:: python\n(?:   :\w+: .*\n)*\n((?:   .*\n|\n)+)", text, re.MULTILINE
    )
    for example in [*fenced, *map(textwrap.dedent, directives)]:
        compile(example, str(page), "exec")


def test_complete_yaml_examples_are_valid() -> None:
    """An example with a name is a whole ensemble file, and must load as one."""
    found = []
    for page in PAGES:
        for body in re.findall(
            r"^\.\. code-block:: yaml\n(?:   :\w+: .*\n)*\n((?:   .*\n|\n)+)",
            page.read_text(),
            re.MULTILINE,
        ):
            values = parse_yaml(textwrap.dedent(body), page.name)
            if len(values) > 3 and "name" in values:
                found.append(build(ROOT / "ensemble.yaml", values).name)
    assert len(found) >= 4


def test_collecting_in_python_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["-q", "init", str(tmp_path)]) == 0
    assert main(["-q", "run", str(tmp_path)]) == 0
    text = (DOCS / "howto" / "collect.rst").read_text()
    example = text.partition(".. code-block:: python\n")[2].partition("\nThe dataset is lazy")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(example), names)
    assert names["dataset"].sizes["simulation"] == 4
