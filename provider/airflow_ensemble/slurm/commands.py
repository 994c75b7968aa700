"""The shell texts that are sent to a cluster, and how their output comes apart again.

A text prints sections: what a command says, then a line ``<MARK> <kind> <exit code>``. What a login
shell prints before the first command, and what belongs to no section, harms nobody.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from airflow_ensemble.slurm.answers import FENCED
from airflow_ensemble.slurm.environment import cleaning_text, named_by
from airflow_ensemble.slurm.parsing import ACCOUNTING_FORMAT, QUEUE_FORMAT, SCRIPT

#: Begins the line that ends a section.
MARK = "@@ensemble@@"
#: Seconds that each of Slurm's commands may take.
PATIENCE = 60
#: Ids that one ``sacct`` or ``scancel`` gets: with very many, sites have seen it hang.
BATCH = 200
_MARKING = f"""mark() {{ printf '\\n{MARK} %s %s\\n' "$1" "$2"; }}\n"""
#: What begins commands for Slurm: times as Unix time, whole array expressions, plain messages, the
#: cluster to which the account's jobs go, and no filters that the account has set for itself.
PRELUDE = f"""\
export SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0 LC_ALL=C
[ -n "$SLURM_CLUSTERS" ] || [ -z "$SBATCH_CLUSTERS" ] || export SLURM_CLUSTERS="$SBATCH_CLUSTERS"
unset NOTHING {named_by("(SQUEUE|SACCT|SCANCEL|SCONTROL)_[A-Z_]*")}
{_MARKING}"""


@dataclass(frozen=True)
class Section:
    """What one command printed.

    :param kind: as the text's ``mark`` says.
    :param code: its exit code, or the number that was marked.
    :param text: its output and its errors.
    """

    kind: str
    code: int
    text: str


def split_sections(output: str) -> list[Section]:
    """Return the sections of what a text printed."""
    sections, lines = [], list[str]()
    for line in output.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[0] == MARK and parts[2].isdecimal():
            sections.append(Section(parts[1], int(parts[2]), "\n".join(lines).strip("\n")))
            lines = []
        else:
            lines.append(line)
    return sections


def clustered(cluster: str) -> str:
    """Return the option that leads a command to another cluster, if there is one to name."""
    return f" -M {shlex.quote(cluster)}" if cluster else ""


def poll_text(clusters: Iterable[str], *, ask_accounting: str, age: int) -> str:
    """Return the text of one poll. Its input holds lines ``<cluster or -> <id>,<id>…``.

    All of the account's jobs are asked for, which costs as much as some by name, and a site may
    have renamed ours; only lines of the ids come back.

    :param clusters: on which they are; the empty name is the default one.
    :param ask_accounting: ``always``, ``never``, or ``missing``: when the queue does not answer or
        does not show a job at all.
    :param age: seconds that the jobs' submissions may lie back.
    """
    blocks = [PRELUDE, 'all=$(cat)\nmark now "$(date +%s)"\n']
    for cluster in clusters:
        option = clustered(cluster)
        blocks.append(f"""\
ids=$(printf '%s\\n' "$all" | sed -n 's/^{cluster or "-"} //p')
queue=$(timeout {PATIENCE} squeue{option} --me -h -t all -O '{QUEUE_FORMAT}' 2>&1 </dev/null)
code=$?
{_OF_IDS}
mark queue $code
""")
        if ask_accounting != "never":
            blocks.append(_accounting_block(option, always=ask_accounting == "always", age=age))
    return "".join(blocks)


def _accounting_block(option: str, *, always: bool, age: int) -> str:
    condition = "true" if always else f"[ $code -ne 0 ] || {_IS_MISSING}"
    return f"""\
if {condition}; then
printf '%s\\n' "$ids" | while read -r some; do
timeout {PATIENCE} sacct{option} -X -D -n -P -S now-{age} -j "$some" -o {ACCOUNTING_FORMAT} \
2>&1 </dev/null
mark accounting $?
done
fi
"""


#: Prints what ``$queue`` says of the jobs of ``$ids``, and what it says of no job.
_OF_IDS = """{ printf '%s\\n' "$ids" | tr , '\\n'; printf '%s\\n' "$queue"; } | awk -F'|' '
NF == 1 && /^[0-9]+$/ { want[$1]; next } { split($1, part, /[_+;]/) }
NF == 1 || part[1] in want { print }'"""
#: Succeeds when a job of ``$ids`` is in no line of ``$queue``.
_IS_MISSING = """! { printf '%s\\n' "$ids" | tr , '\\n'; printf '%s\\n' "$queue"; } | awk -F'|' '
NF == 1 && /^[0-9]+$/ { want[$1] } NF > 1 { split($1, part, /[_+;]/); seen[part[1]] }
END { for (id in want) if (!(id in seen)) exit 1 }'"""


def find_text(name: str, *, accounting: bool, days: int = 30) -> str:
    """Return the text that looks for the jobs that we call so, now and in some days before.

    A site may have renamed them: whatever the queue shows with the name in any column comes back.
    Sites that allow no wide window of the accounting are asked for a day.
    """
    quoted = shlex.quote(name)
    sacct = f"timeout {PATIENCE} sacct -X -n -P --name={quoted} -o {ACCOUNTING_FORMAT}"
    text = f"""\
{PRELUDE}out=$(timeout {PATIENCE} squeue --me -h -t all -O '{QUEUE_FORMAT}' 2>&1 </dev/null)
code=$?
[ $code -ne 0 ] || out=$(printf '%s\\n' "$out" | grep -F -e {quoted})
printf '%s\\n' "$out"
mark queue $code
"""
    if not accounting:
        return text
    return f"""{text}out=$({sacct} -S now-{days * 86400} 2>&1 </dev/null); code=$?
case "$out" in *"Too wide"*) out=$({sacct} -S now-86400 2>&1 </dev/null); code=$?;; esac
printf '%s\\n' "$out"
mark accounting $code
"""


def cancel_text() -> str:
    """Return the text that cancels. Its input holds lines ``<cluster or -> <id> <id>…``."""
    return f"""{PRELUDE}while read -r cluster ids; do
option=; [ "$cluster" = - ] || option="-M $cluster"
timeout {PATIENCE} scancel $option $ids 2>&1 </dev/null
mark cancel $?
done
"""


def submit_text(folder: str, attempt: int, limit: float) -> str:
    """Return the text that runs ``sbatch`` in a job's folder, unless the attempt's folder is there.

    Variables that would override what ``job.sh`` says, and those of another job, are taken away;
    the account's own defaults for what it does not say (``SBATCH_ACCOUNT``) stay.
    """
    place = f"attempt-{attempt:d}"
    # No variable is set here: jobs inherit the environment of sbatch.
    return f"""\
{_MARKING}cd {shlex.quote(folder)} || {{ mark nofolder 1; exit 0; }}
if ! mkdir {place} 2>&1; then
[ -d {place} ] && mark fenced 0 || mark unwritable 1
exit 0
fi
{cleaning_text(SCRIPT)}\
timeout -k 10 {limit:.0f} sbatch --parsable {SCRIPT} >{place}/answer 2>&1 </dev/null
printf '\\ncode=%s\\n' "$?" >>{place}/answer
cat {place}/answer
mark answer 0
"""


def look_text(folder: str, attempt: int) -> str:
    """Return the text that fences an attempt which never began, or shows what it left."""
    place = f"attempt-{attempt:d}"
    return f"""\
{PRELUDE}cd {shlex.quote(folder)} || {{ mark nofolder 1; exit 0; }}
if said=$(mkdir {place} 2>&1); then
printf '{FENCED}\\ncode=75\\n' >{place}/answer; mark fenced 0; exit 0
fi
[ -d {place} ] || {{ printf '%s\\n' "$said"; mark unwritable 1; exit 0; }}
began=$(stat -c %Y {place})
{{ touch .looked && now=$(stat -c %Y .looked); }} 2>/dev/null || now=$(date +%s)
age=$((now - began)); [ $age -ge 0 ] || age=0
mark age $age
ls -1 | sed -n 's/^started-\\([0-9]*\\)_.*/\\1/p' | sort -un
mark started 0
head -c 20000 {place}/answer 2>/dev/null
mark answer 0
"""


#: Marks that a login shell has come to what it was asked.
BEGUN = "begun"


def variables_text(names: Sequence[str]) -> str:
    """Return the text that asks a login shell for variables and home folders.

    What it knows comes as a section for each, in hexadecimal digits, so that no value can be taken
    for anything else.

    :param names: of variables, ``~``, ``~user``.
    """
    asked = "".join(map(_variable_block, names))
    script = f"{_MARKING}mark {BEGUN} 0\n{asked}"
    return f"timeout {PATIENCE} bash -l -c {shlex.quote(script)} </dev/null\n"


def _variable_block(name: str) -> str:
    show = f"printf %s \"$value\" | od -An -v -tx1 | tr -d ' \\n'; mark '{name}' 0"
    if name.startswith("~"):
        return f"value={name}\n[ \"$value\" = '{name}' ] || {{ {show}; }}\n"
    return f'if [ "${{{name}+set}}" ]; then value=${name}; {show}; fi\n'


#: For the interpreter of workers, which is started by a login shell, as in a batch script.
_VERSION = "import sys; print('\\n%d.%d.%d' % sys.version_info[:3])"


def site_text(python: str) -> str:
    """Return the text that asks for everything that a site is; Slurm's silence ends it early."""
    return f"""\
{PRELUDE}mark now "$(date +%s)"
printf '%s\\n' "$HOME"; mark home 0
timeout {PATIENCE} bash -l -c {shlex.quote(shlex.join([python, "-c", _VERSION]))} \
2>/dev/null </dev/null
mark python $?
if ! command -v sbatch >/dev/null 2>&1; then
echo "sbatch: command not found"; mark config 127; exit 0
fi
timeout {PATIENCE} scontrol show config 2>&1 </dev/null; code=$?
mark config $code
[ $code -eq 0 ] || exit 0
timeout {PATIENCE} sacct -X -n -P -S now-60 -o JobID 2>&1 </dev/null; mark accounting $?
timeout {PATIENCE} squeue --me -h -r -o %i 2>/dev/null </dev/null | wc -l; mark queued 0
timeout {PATIENCE} sacctmgr -n -P show assoc user="$(id -un)" \
format=account,maxsubmitjobs,grpsubmitjobs,defaultqos,qos 2>/dev/null </dev/null
mark associations $?
timeout {PATIENCE} sacctmgr -n -P show qos \
format=name,maxsubmitjobsperuser,maxsubmitjobsperaccount,grpsubmitjobs 2>/dev/null </dev/null
mark qualities $?
"""
