"""A fake of Slurm at the level of its commands, for what a small cluster cannot be made to show.

It is no Slurm: ``sbatch``, ``squeue``, ``sacct``, ``scontrol``, ``sacctmgr`` and ``scancel`` are
shell scripts that remember what they were called with. Each runs the next text that a test has
scripted for it, or else a plain default: ``sbatch`` enters a job, ``squeue`` shows those that were
entered as pending, ``scancel`` takes them out, ``sacct`` knows nothing.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from airflow_ensemble.slurm.local_runner import LocalRunner

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "sacctmgr", "scancel")

#: ``create`` enters a job under the name in job.sh, with the next free id, and sets ``$id``.
_SCRIPT = """#!/bin/sh
cd_folder=$PWD
state={state}
printf '%s\\n' "$*" >>$state/calls.{command}
create() {{
  id=1
  name=$(sed -n 's/^#SBATCH --job-name=//p' "$cd_folder/job.sh")
  while ! (set -C; echo "$name" >$state/jobs/$id) 2>/dev/null; do id=$((id + 1)); done
}}
show() {{
  for one in $(ls $state/jobs | sort -n); do
    echo "${{one}}_[0-9]|PENDING|1700000000|N/A|N/A|0|0||$(cat $state/jobs/$one)|Priority"
  done
}}
for next in $(ls $state/once.{command} | sort -n); do
  if mv $state/once.{command}/$next $state/taken.{command}.$next 2>/dev/null; then
    . $state/taken.{command}.$next
    exit $?
  fi
done
. $state/always.{command}
"""
_DEFAULTS = {
    "sbatch": "create; echo $id",
    "squeue": "show",
    "sacct": ":",
    "scontrol": "printf 'MaxArraySize = 1001\\nSLURM_VERSION = 26.05.4\\nClusterName = fake\\n'",
    "sacctmgr": ":",
    "scancel": "for one in $*; do rm -f $state/jobs/${one%%_*}; done",
}


class FakeSlurm:
    """Scripted commands in a folder of their own.

    :param folder: where everything lies; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.bin, self.state = folder / "bin", folder / "state"
        (self.state / "jobs").mkdir(parents=True)
        self.bin.mkdir()
        self._scripted = 0
        for command in COMMANDS:
            path = self.bin / command
            path.write_text(_SCRIPT.format(state=shlex.quote(str(self.state)), command=command))
            path.chmod(0o755)
            (self.state / f"once.{command}").mkdir()
            (self.state / f"calls.{command}").touch()
            self.always(command, _DEFAULTS[command])

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which the fake is found before anything else."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}"}

    def runner(self) -> LocalRunner:
        """Return a runner whose commands are the fake's."""
        return LocalRunner(self.environment)

    def once(self, command: str, text: str) -> None:
        """Script the next call that nothing is scripted for yet."""
        self._scripted += 1
        (self.state / f"once.{command}" / str(self._scripted)).write_text(text + "\n")

    def always(self, command: str, text: str) -> None:
        """Script all calls for which no other text is left."""
        (self.state / f"always.{command}").write_text(text + "\n")

    def restore(self, command: str) -> None:
        """Let a command do again what it does by default."""
        self.always(command, _DEFAULTS[command])

    def says(self, text: str, code: int = 0) -> str:
        """Return a script that prints a text and ends with a code."""
        return f"printf '%s' {shlex.quote(text)}; exit {code}"

    def calls(self, command: str) -> list[str]:
        """Return the arguments of each call so far."""
        return (self.state / f"calls.{command}").read_text().splitlines()

    @property
    def jobs(self) -> list[str]:
        """Return the ids of the jobs that exist, oldest first."""
        return sorted((path.name for path in (self.state / "jobs").iterdir()), key=int)
