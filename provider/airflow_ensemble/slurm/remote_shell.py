"""A script for another machine's shell, such that its beginning and its end are certain.

What SSH runs goes through the account's login shell, which may be any, with start-up files that may
print anything; and what SSH answers when it breaks looks much like what a command answers. So the
command line is constant and readable by every shell, the script itself travels on standard input,
and marks tell its own output from what comes before it and its exit code from the connection's.

A start-up file may also replace the login shell by another one (``exec tcsh``), which then reads
the script itself, command by command. The first line ends any shell that we did not start.
"""

from __future__ import annotations

from airflow_ensemble.slurm.runner import Completed

_MARK = "--ensemble-worker-at-work--"
#: A login shell of any kind, ``head`` of the script, and the inner shell that runs it.
_COMMAND = (
    '/bin/sh -c \'echo {mark}; {guard}=1 /bin/sh -c "$(head -c {size})"; '
    'printf "\\n{mark} %d\\n" $? >&2\''
)
#: Every shell understands it.
_GUARD = "ENSEMBLE_SCRIPT"
_FIRST_LINE = f"printenv {_GUARD} >/dev/null || exit 97\n"


def wrap(script: str) -> tuple[str, bytes]:
    """Return the command to run on the other side, and what its standard input begins with."""
    data = f"{_FIRST_LINE}unset {_GUARD}\n{script}".encode()
    return _COMMAND.format(mark=_MARK, guard=_GUARD, size=len(data)), data


def has_begun(out: bytes) -> bool:
    """Return whether the script was begun, as far as its standard output tells."""
    return f"{_MARK}\n".encode() in out


def unwrap(out: bytes, err: bytes) -> Completed | None:
    """Return what the script answered; None when it has not come to its end.

    :param out: everything that came on standard output.
    :param err: everything that came on standard error.
    """
    _, begun, own_out = out.partition(f"{_MARK}\n".encode())
    own_err, ended, code = err.rpartition(f"\n{_MARK} ".encode())
    word = code.split(b"\n", 1)[0]
    if not begun or not ended or not word.isdigit():
        return None
    return Completed(
        int(word), own_out.decode("utf-8", "replace"), own_err.decode("utf-8", "replace")
    )


def refusal(place: str, out: bytes, err: bytes) -> str:
    """Return why nothing runs at a place that ended a command before its beginning."""
    answer = (out + err).decode("utf-8", "replace").strip()[:500]
    return (
        f"{place} let us in but runs no commands for this account; it answered: "
        f"{answer or '(nothing)'}. Ask the site for an account with a shell, and see that no "
        "start-up file such as ~/.bashrc replaces it (exec tcsh) where nobody sits before it"
    )
