"""What stands for variables and home folders on a cluster: what a login shell there says.

Batch scripts are run by a login shell, too, and most sites set ``$SCRATCH`` and the like for those
alone. Names are sent, and only such that mean nothing else to a shell; what comes back is data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.answers import shorten
from airflow_ensemble.slurm.commands import BEGUN, split_sections, variables_text
from airflow_ensemble.slurm.runner import Runner

_ASKABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|~|~[A-Za-z_][A-Za-z0-9_.-]*")


class LoginShell:
    """A cluster as paths see it; it is asked once for each name.

    :param runner: how the cluster is reached; stays the caller's, who closes it.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._known: dict[str, str | None] = {}

    @property
    def name(self) -> str:
        """Return where that is, as the end of a sentence."""
        return f"for a login shell on {self._runner.place}"

    def look_up(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return what stands for variables, ``~`` and ``~user``; what is not known is left out.

        :raises UsageError: when no login shell starts there.
        """
        asked = [name for name in names if name not in self._known and _ASKABLE.fullmatch(name)]
        if asked:
            answers = self._ask(asked)
            self._known.update((name, answers.get(name)) for name in asked)
        known = {name: self._known.get(name) for name in names}
        return {name: value for name, value in known.items() if value is not None}

    def _ask(self, names: Sequence[str]) -> Mapping[str, str]:
        done = self._runner.run(variables_text(names))
        sections = split_sections(done.out)
        if not any(one.kind == BEGUN for one in sections):
            said = shorten(done.err) or f"it ended with exit code {done.code}"
            raise UsageError(
                f"bash as a login shell on {self._runner.place} runs nothing that it is asked for "
                f"({said}), so that {', '.join(names)} cannot be known: mend the account's "
                "start-up files there, or write the paths out"
            )
        return {one.kind: _decode(one.text) for one in sections if one.kind != BEGUN}


def _decode(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-8", "surrogateescape")
