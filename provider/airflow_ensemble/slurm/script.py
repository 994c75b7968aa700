"""The batch script of an array: text from values, and nothing else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.environment import launching_text
from airflow_ensemble.slurm.options import Launch, Options

_PLAIN = re.compile(r"[A-Za-z0-9_.,:=/@%+^~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_FIRST_PYTHON = "(3, 9)"


@dataclass(frozen=True)
class Job:
    """An array job that is to be submitted.

    :param name: its name; see :attr:`~airflow_ensemble.engine.index.interface.JobInfo.name`.
    :param folder: its folder on the cluster.
    :param comment: for people who look at the queue.
    :param n_elements: elements of the array.
    :param parallelism: elements that may run at one time; None for all.
    :param options: of ``sbatch``, besides those that follow from the above.
    :param lead: seconds before the time limit at which the worker is told to stop; 0 for never.
    :param setup: shell lines before the worker.
    :param python: the model's interpreter.
    :param bundle: path of the worker bundle on the cluster.
    :param launch: what a simulation's own launcher is told; None for a job that runs none.
    :param declined: options that the job shall not have, whatever the account's variables say.
    """

    name: str
    folder: str
    comment: str
    n_elements: int
    parallelism: int | None
    options: Options
    lead: int
    setup: Sequence[str]
    python: str
    bundle: str
    launch: Launch | None = None
    declined: Sequence[str] = ()


def render_array(job: Job) -> str:
    """Return the script whose elements run a push worker each.

    :raises UsageError: on an option value that would break out of its line.
    """
    run = (
        f'ensemble_chunk=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {_quote(job.folder)}/elements)\n'
        'exec "$ensemble_python" "$ensemble_bundle" push-worker '
        f'{_quote(job.folder)}/"$ensemble_chunk" --cpus "$ensemble_cpus"\n'
    )
    cpus = 'ensemble_cpus="${SLURM_CPUS_PER_TASK:-1}"\n'
    return _render(job, cpus + (_launching(job.launch) if job.launch else "") + run)


def render_collection(
    job: Job,
    output: str,
    to: str,
    format: str | None,
    align: str = "exact",
    products: Sequence[str] = (),
) -> str:
    """Return the script whose one element collects what ``results.jsonl`` names.

    :param output: the output root.
    :param to: path or URI of the dataset.
    :param format: of the dataset; None goes by the ending of ``to``.
    :param align: ``exact`` or ``outer``.
    :param products: only these; all when empty.
    :raises UsageError: on an option value that would break out of its line.
    """
    arguments = ["--output", output, "--to", to]
    arguments += ["--format", format] if format else []
    arguments += ["--align", align] if align != "exact" else []
    arguments += [word for name in products for word in ("--product", name)]
    run = (
        'exec "$ensemble_python" "$ensemble_bundle" collect '
        f"--results {_quote(job.folder)}/results.jsonl "
        f"{' '.join(map(_quote, arguments))}\n"
    )
    return _render(job, run)


def array_expression(n_elements: int, parallelism: int | None) -> str:
    """Return the value of ``--array``."""
    limit = f"%{parallelism}" if parallelism and parallelism < n_elements else ""
    return f"0-{n_elements - 1}{limit}" if n_elements > 1 else "0"


def directive(name: str, value: str | bool) -> str:
    """Return one ``#SBATCH`` line.

    :raises UsageError: when the value has a line end or a control character in it.
    """
    if value is True:
        return f"#SBATCH --{name}\n"
    text = str(value)
    if _CONTROL.search(text):
        raise UsageError(f"option {name} of sbatch: {text!r} has a line end or control character")
    if not _PLAIN.fullmatch(text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={text}\n"


def _render(job: Job, run: str) -> str:
    return "#!/bin/bash -l\n" + _directives(job) + "\n" + _preparation(job) + run


def _directives(job: Job) -> str:
    options: dict[str, str | bool] = {
        "job-name": job.name,
        "comment": job.comment,
        "array": array_expression(job.n_elements, job.parallelism),
        "output": f"{job.folder.replace('%', '%%')}/logs/%a.log",
        "open-mode": "append",
        "chdir": job.folder,
        **({"signal": f"B:USR1@{job.lead}"} if job.lead else {}),
        **job.options,
    }
    not_wanted = "".join(f"##SBATCH --{name}\n" for name in job.declined)
    return "".join(directive(name, value) for name, value in options.items()) + not_wanted


def _preparation(job: Job) -> str:
    """Return what every element begins with: its mark, the set-up lines, a look at Python."""
    # What is set here keeps away from names that an account may export: models get those.
    mark = '/started-"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"'
    return (
        'give_up() { echo "error: $1" >&2; exit 2; }\n'
        f"{launching_text()}"
        f": >{_quote(job.folder)}{mark}\n"
        + "".join(_setup_line(line) for line in job.setup)
        + f"ensemble_python={_quote(job.python)}\n"
        f"ensemble_bundle={_quote(job.bundle)}\n"
        '"$ensemble_python" -S -c "import sys; sys.exit(sys.version_info < '
        f'{_FIRST_PYTHON})" </dev/null || give_up "$ensemble_python on $(hostname) is no Python of '
        'at least 3.9: name one as execution.python"\n'
    )


def _launching(launch: Launch) -> str:
    """Return what tells ``srun`` and ``mpirun`` of one simulation, where they read it of the job.

    Of several that share a job, each launcher gets its part, and none waits for the others.
    """
    # srun has not taken SLURM_CPUS_PER_TASK over since 22.05; other programs read that.
    given: dict[str, int | str] = {
        "SLURM_CPUS_PER_TASK": launch.cpus,
        "SRUN_CPUS_PER_TASK": launch.cpus,
    }
    if launch.gpus is not None:
        given["SLURM_GPUS_PER_TASK"] = launch.gpus
    lines = f"unset {' '.join(launch.unset)}\n" if launch.unset else ""
    lines += _launching_tasks(launch.tasks)
    if launch.at_once > 1:
        given["SLURM_EXACT"] = 1
        lines += (
            '[ -z "$SLURM_MEM_PER_NODE" ] || '
            f'export SLURM_MEM_PER_NODE="$((SLURM_MEM_PER_NODE / {launch.at_once}))"\n'
        )
    return lines + _export(**given)


def _launching_tasks(tasks: int | None) -> str:
    if tasks is None:
        return ""
    number = tasks or '"${SLURM_JOB_NUM_NODES:-1}"'
    lines = _export(SLURM_NTASKS=number, SLURM_NPROCS=number)
    if tasks > 1:  # Open MPI's places on a node
        lines += f'[ "${{SLURM_JOB_NUM_NODES:-1}}" != 1 ] || {_export(SLURM_TASKS_PER_NODE=tasks)}'
    return lines


def _export(**variables: int | str) -> str:
    return f"export {' '.join(f'{name}={value}' for name, value in variables.items())}\n"


def _setup_line(line: str) -> str:
    message = _quote(f"set-up line failed: {line}")
    return f"{line}\n[ $? -eq 0 ] || give_up {message}\n"


def _quote(text: str) -> str:
    return shlex.quote(text)
