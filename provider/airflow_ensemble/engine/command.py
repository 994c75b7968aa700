"""Commands as models: an argument list with ``{name}`` filled from parameters, never a shell.

Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import string
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.parameters import as_argument
from airflow_ensemble.engine.products import Failure, match_file
from airflow_ensemble.engine.recipe import ProductSpec
from airflow_ensemble.engine.simulation import Reason

if TYPE_CHECKING:
    from airflow_ensemble.engine.model import Run

#: Names that a template may use besides the parameters.
RUN_FIELDS = ("id", "seed", "cpus", "workdir", "attempt")

_FORMATTER = string.Formatter()
#: Formats that only pad: they take a value as it is printed, whatever its type.
_PADDING = re.compile(r".?[<>^][1-9][0-9]*", re.DOTALL)


def load_command(
    command: Sequence[str], specs: Sequence[ProductSpec], code: Sequence[str] = ()
) -> CommandModel:
    """Check a command's template and find its program.

    :param command: the argument list; the first one is the program.
    :param specs: the declared products; each needs a glob.
    :param code: directories searched for the program before ``PATH``.
    :raises ModelError: naming the argument or program that cannot be used.
    """
    for argument in command:
        parse_template(argument)
    without_glob = [spec.name for spec in specs if not spec.glob]
    if without_glob:
        raise ModelError(
            f"product {without_glob[0]!r} of a command model needs a glob that finds its file"
        )
    program = command[0]
    if not any(field for _, field in parse_template(program)):
        program = find_program(program, code)
    return CommandModel((program, *command[1:]), specs)


def find_program(program: str, code: Sequence[str] = ()) -> str:
    """Return the path of a program.

    :raises ModelError: when there is none that can be executed.
    """
    places = os.pathsep.join([*code, os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=places)
    if found is None or (os.sep in program and not Path(program).is_absolute()):
        raise ModelError(
            f"command: program {program!r} is not found or not executable. Give its absolute "
            "path, put its folder on PATH, or name its folder in 'execution: code'"
        )
    return str(Path(found).absolute())


def parse_template(argument: str) -> list[tuple[str, tuple[str, str] | None]]:
    """Split an argument into literal texts, each with the field (name, format) that follows it.

    :raises ModelError: when its braces are not balanced or hold more than a name and a format.
    """
    try:
        parts = list(_FORMATTER.parse(argument))
    except ValueError as error:
        raise ModelError(
            f"command argument {argument!r}: {error}; write {{{{ and }}}} for braces themselves"
        ) from error
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name or conversion or "{" in (spec or ""):
            raise ModelError(
                f"command argument {argument!r}: only {{name}} and {{name:format}} are filled"
            )
    return [(text, None if name is None else (name, spec or "")) for text, name, spec, _ in parts]


def fill_template(
    argument: str, values: Mapping[str, Any], written: Mapping[str, str] | None = None
) -> str:
    """Return an argument with its fields filled.

    :param argument: of the command.
    :param values: by name.
    :param written: texts that stand for values where no format, or one that only pads, is asked
        for.
    :raises Failure: of reason ``invalid``, naming the parameter that is missing or does not fit.
    """
    filled = []
    for text, field in parse_template(argument):
        filled.append(text)
        if field is not None:
            filled.append(_fill(argument, *field, values, written or {}))
    return "".join(filled)


class CommandModel:
    """A command as a model.

    :param command: the argument list with the program's path.
    :param specs: the declared products with their globs.
    """

    def __init__(self, command: Sequence[str], specs: Sequence[ProductSpec]) -> None:
        self.command = tuple(command)
        self._specs = specs

    def __call__(self, run: Run) -> dict[str, Path | None]:
        """Run the command in the simulation's directory and find its products.

        :raises Failure: when it cannot start, exits non-zero, is killed, or leaves no product.
        """
        arguments = self.fill(run)
        try:
            done = subprocess.run(
                arguments, cwd=run.workdir, env=environment(run), stdin=subprocess.DEVNULL
            )
        except (OSError, ValueError) as error:
            raise Failure(Reason.ERROR, f"{arguments[0]!r} could not be started: {error}") from None
        _check_status(done.returncode, Path(arguments[0]).name)
        return {spec.name: self._product(spec, run.workdir) for spec in self._specs}

    def fill(self, run: Run) -> list[str]:
        """Return the argument list of one simulation.

        :raises Failure: of reason ``invalid`` when a parameter is missing.
        """
        values = {**run.params, **{name: getattr(run, name) for name in RUN_FIELDS}}
        return [fill_template(argument, values, run.written) for argument in self.command]

    @staticmethod
    def _product(spec: ProductSpec, workdir: Path) -> Path | None:
        file = match_file(spec, workdir)
        if file is None and not spec.optional:
            raise Failure(
                Reason.MISSING_PRODUCT,
                f"product {spec.name!r}: no file matches {spec.glob!r} after the command ended",
            )
        return file


def environment(run: Run) -> dict[str, str]:
    """Return the environment of a command: the worker's, and what the run is."""
    own = {f"ENSEMBLE_{name.upper()}": str(getattr(run, name)) for name in RUN_FIELDS}
    return {**os.environ, **own}


def signal_name(number: int) -> str:
    """Return a signal's name, such as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _fill(
    argument: str, name: str, spec: str, values: Mapping[str, Any], written: Mapping[str, str]
) -> str:
    value = values.get(name)
    if value is None:
        known = ", ".join(sorted(key for key, value in values.items() if value is not None))
        raise Failure(
            Reason.INVALID,
            f"command argument {argument!r} uses {{{name}}}, which this simulation does not have; "
            f"it has: {known}",
        )
    if not spec or _PADDING.fullmatch(spec):
        return format(written.get(name) or as_argument(value), spec)
    try:
        return format(value, spec)
    except (ValueError, TypeError) as error:
        raise Failure(
            Reason.INVALID, f"command argument {argument!r}: {name} is {value!r}: {error}"
        ) from None


def _check_status(status: int, program: str) -> None:
    if status < 0:
        raise Failure(Reason.CRASHED, f"{program} was killed by {signal_name(-status)}", -status)
    if status > 0:
        raise Failure(Reason.ERROR, f"{program} ended with exit status {status}")
