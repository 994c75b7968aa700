"""From recorded and invented output to values; nothing that is printed makes a parser fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.slurm.answers import Outcome, judge, read_answer
from airflow_ensemble.slurm.arrays import JobId, parse_job_id
from airflow_ensemble.slurm.commands import MARK, Section, split_sections
from airflow_ensemble.slurm.parsing import (
    Row,
    group_rows,
    parse_accounting,
    parse_config,
    parse_queue,
    parse_seconds,
    parse_submit_limit,
    parse_submitted,
    parse_version,
)
from airflow_ensemble.slurm.states import MEANINGS, End, Phase
from tests.slurm.recorded import Answer, find, recorded

FAILED = "sbatch: error: Batch job submission failed:"
names = st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True)
times = st.none() | st.integers(1, 2**34).map(float)
printed = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="|\x85"),
    max_size=20,
).map(str.strip)
rows = st.builds(
    Row,
    id=st.sampled_from(["11", "11_3", "11_[2-5%2]", "123+1"]).map(parse_job_id),
    name=names,
    word=st.sampled_from(sorted(MEANINGS)),
    reason=printed.filter(lambda text: text not in ("None", "(null)", "N/A", "n/a")),
    exit_code=st.integers(0, 255),
    signal=st.none(),
    restarts=st.integers(0, 99),
    submitted=times,
    started=times,
    ended=times,
    nodes=st.sampled_from(["", "n1", "n[1-2]"]),
)


def id_text(id: JobId) -> str:
    known = {parse_job_id(text): text for text in ("11", "11_3", "11_[2-5%2]", "123+1")}
    return known[id]


def queue_line(row: Row) -> str:
    seconds = [
        "N/A" if one is None else f"{one:.0f}" for one in (row.submitted, row.started, row.ended)
    ]
    status = str((row.exit_code or 0) << 8)
    parts = [id_text(row.id), row.word, *seconds, status, str(row.restarts), row.nodes, row.name]
    return "|".join([*parts, row.reason or "None"])


@given(st.lists(rows, max_size=5))
def test_lines_of_the_queue_are_read_as_they_were_meant(given_rows: list[Row]) -> None:
    text = "".join(f"{queue_line(row)}\n" for row in given_rows)
    assert parse_queue(f"Welcome to the cluster!\n{text}CLUSTER: x\n") == given_rows


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from("1_[2-5%|]\n9;:PENDING "), max_size=80).map("".join)
)
def test_no_text_makes_a_parser_fail(text: str) -> None:
    for row in parse_queue(text) + parse_accounting(text):
        row.view()
    group_rows(parse_queue(text))
    parse_config(text)
    parse_version(text)
    parse_seconds(text, 1)
    parse_submitted(text)
    parse_submit_limit(text, text)
    split_sections(text)
    read_answer(text)
    judge(text, 1)


@given(st.lists(st.tuples(st.sampled_from(["queue", "now"]), st.integers(0, 255), printed)))
def test_sections_come_apart_as_they_were_put_together(parts: list[tuple[str, int, str]]) -> None:
    output = "".join(f"{text}\n\n{MARK} {kind} {code}\n" for kind, code, text in parts)
    assert split_sections(output) == [Section(kind, code, text) for kind, code, text in parts]


# --- what a real Slurm said


def rows_of(answer: Answer) -> list[Row]:
    parse = parse_queue if "squeue" in answer.command else parse_accounting
    return parse(answer.out)


def ours(case: str, command: str) -> list[Answer]:
    """Return the recorded answers to the very commands that the client sends."""
    mark = "-O 'JobArrayID" if command == "squeue" else "-o JobID,State,ExitCode,Submit"
    return [one for one in recorded(case) if f" {command} " in one.command and mark in one.command]


def last(case: str, command: str) -> dict[str, Row]:
    return {id_of(one): one for one in rows_of(ours(case, command)[-1])}


def id_of(row: Row) -> str:
    return row.id.job if row.id.elements is None else f"{row.id.job}:{len(row.id.elements)}"


def test_desispec_2682_what_never_starts_is_blocked() -> None:
    views = {one: row.view() for one, row in last("blocked", "squeue").items()}
    blocked = {views[one].reason for one in views if views[one].phase is Phase.BLOCKED}
    assert blocked == {
        "DependencyNeverSatisfied",
        "ReqNodeNotAvail, UnavailableNodes:n1",
        "JobHeldAdmin",
        "JobHeldUser",
    }
    waiting = {views[one].reason for one in views if views[one].phase is Phase.PENDING}
    assert waiting == {"BeginTime", "Resources"}
    (failed,) = (one for one in views.values() if one.phase is Phase.ENDED)
    assert (failed.end, failed.exit_code, failed.signal) == (End.FAILED, 1, None)


def test_nextflow_193_a_whole_array_cancelled_while_it_waits() -> None:
    grouped = group_rows(rows_of(ours("cancelled-before-start", "squeue")[-2]))
    for element in range(10):
        (row,) = grouped["3", "wrap"].find(element)
        assert row.view().end is End.CANCELLED
    assert grouped["3", "wrap"].find(10) == []
    (row,) = rows_of(ours("cancelled-before-start", "sacct")[-1])[1:]
    assert (row.view().end, row.started, row.reason) == (End.CANCELLED, None, "by 1001")


@pytest.mark.parametrize(
    "answer", [one for one in recorded("refused") if one.code], ids=lambda one: one.command[:60]
)
def test_every_recorded_refusal_is_a_refusal(answer: Answer) -> None:
    judged = judge(answer.out + answer.err, answer.code)
    assert judged.outcome is Outcome.REFUSED
    assert judged.text.startswith("sbatch refused the job: ")


@pytest.mark.parametrize(
    ("beginning", "hint"),
    [
        ("sbatch --parsable -o /dev/null --account=nobody", "set another 'account'"),
        ("sbatch --parsable -o /dev/null --partition=nowhere", "set another 'partition'"),
        ("sbatch --parsable -o /dev/null --partition=tiny --time=5", "set 'time' as"),
        ("sbatch --parsable -o /dev/null --time=soon", "set 'time' as"),
        ("sbatch --parsable -o /dev/null --array=0-10001", "MaxArraySize"),
        ("sbatch --parsable -o /dev/null --mem=9999999", "no node of the partition"),
        ("/bin/sh -c 'PATH= ;", "add their folder to PATH"),
    ],
)
def test_a_refusal_says_what_to_change(beginning: str, hint: str) -> None:
    answer = find("refused", beginning)
    assert hint in judge(answer.err, answer.code).text


def test_submitit_1624_a_submit_limit_is_named() -> None:
    answer = next(one for one in recorded("limits") if one.code)
    judged = judge(answer.err, answer.code)
    assert judged.outcome is Outcome.REFUSED
    assert "use fewer chunks" in judged.text


@pytest.mark.parametrize(
    ("case", "outcome"),
    [("controller-down", Outcome.UNAVAILABLE), ("controller-frozen", Outcome.UNKNOWN)],
)
def test_nextflow_970_no_answer_of_the_controller_is_no_refusal(
    case: str, outcome: Outcome
) -> None:
    answer = next(one for one in recorded(case) if one.command.startswith("sbatch") and one.code)
    assert judge(answer.err, answer.code).outcome is outcome


@pytest.mark.parametrize(
    ("text", "code", "outcome"),
    [
        (
            "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
            1,
            "unknown",
        ),
        ("", 124, "unknown"),
        ("", 137, "unknown"),
        ("", 1, "unknown"),
        ("queue is full of banners", 0, "unknown"),
        ("12\nsbatch: error: something", 1, "unknown"),
        (
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
            1,
            "unavailable",
        ),
        (
            "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
            1,
            "unavailable",
        ),
        (
            "sbatch: error: Batch job submission failed: Slurm backup controller in standby mode",
            1,
            "unavailable",
        ),
        ("sbatch: error: You must name a project, see https://site", 1, "refused"),
        ("timeout: failed to run command ‘sbatch’: No such file or directory", 127, "refused"),
    ],
)
def test_what_sbatch_says_and_means(text: str, code: int, outcome: str) -> None:
    assert judge(text, code).outcome.value == outcome


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("123\n", "123"),
        ("Dear user, quota 80 %\n\n123\n", "123"),
        ("123\nYour job will be charged to project 7.\n", "123"),
        ("123;hpc-2", "123;hpc-2"),
        ("Submitted batch job 8\n", "8"),
        ("nothing", None),
        ("12 apples", None),
        ("Submitted batch job 8 on cluster hpc-2\n", "8;hpc-2"),
        ("42\nSubmitted batch job 8\nEstimated cost: 17\n17\n", "8"),
        ("\x1b[32mSubmitted batch job 8\x1b[0m\n", "8"),
        ("8;hpc-2\nSubmitted:\n8\n", "8;hpc-2"),
        ("sbatch: lua: 42\nsbatch: 17\n8\n", "8"),
        ("8\nThis will cost you\n42\n", None),
    ],
)
def test_snakemake_375_chatty_answers_of_sbatch(text: str, expected: str | None) -> None:
    assert parse_submitted(text) == expected


@pytest.mark.parametrize(("code", "outcome"), [(0, "unknown"), (1, "unknown")])
def test_an_answer_with_several_numbers_is_looked_up_and_not_guessed(
    code: int, outcome: str
) -> None:
    answer = judge("8\nThis will cost you\n42\nInvalid account\n", code)
    assert (answer.outcome.value, answer.job_id) == (outcome, None)


OURS = "ens-b-0-abcdef"


@pytest.mark.parametrize(
    ("shown", "is_ours"),
    [
        (f"{OURS}|None|/x/{OURS}|/x/{OURS}/job.sh|ensemble/e/{OURS}", True),
        (f"u1001-{OURS}|None|/|(null)|ensemble/e/{OURS}", True),
        (f"batch|None|/|(null)|paid by 7; ensemble/e/{OURS}", True),
        (f"batch|None|/|/real/x/{OURS}/job.sh|(null)", True),
        (f"batch|None|/x/{OURS}|(null)|(null)", True),
        ("batch|None|/|(null)|(null)", False),
        (f"{OURS}-analysis|None|/|/home/me/job.sh|(null)", False),
        (f"my-{OURS}|None|/x/{OURS}|/x/{OURS}/analysis.sh|after ensemble/e/{OURS}2", False),
        (f"b|None|/x/{OURS}/logs|/x/{OURS}/logs/job.sh|(null)", False),
    ],
)
def test_whose_a_job_is_whatever_the_site_has_rewritten(shown: str, is_ours: bool) -> None:
    (row,) = parse_queue(f"11_[0-3]|PENDING|1|N/A|N/A|0|0||{shown}")
    assert row.is_of(OURS) is is_ours


def test_a_job_in_our_folder_that_is_no_array_is_somebody_s_own() -> None:
    (row,) = parse_queue(f"11|PENDING|1|N/A|N/A|0|0||wrap|None|/x/{OURS}|(null)|(null)")
    assert (row.is_of(OURS), row.is_in(OURS)) == (False, True)


def test_the_accounting_shows_folder_and_comment() -> None:
    (row,) = parse_accounting(f"11_0|RUNNING|0:0|1|1|Unknown|n1|batch|/x/{OURS}|a|b")
    assert (row.folder, row.comment) == (f"/x/{OURS}", "a|b")


def test_an_answer_without_a_code_is_none_yet() -> None:
    assert read_answer("123\n") is None
    answer = read_answer("123\n\ncode=0\n")
    assert answer is not None
    assert answer.job_id == "123"


def test_what_a_site_allows() -> None:
    settings = parse_config(find("site", "scontrol show config").out)
    assert settings["ClusterName"] == "ensemble"
    assert settings["MaxArraySize"] == "10001"
    assert parse_seconds(settings["MinJobAge"], 0) == 300
    assert parse_version(settings["SLURM_VERSION"]) == (22, 5, 8)
    assert parse_version("slurm 26.05.4pre") == (26, 5, 4)
    assert parse_version("none") == ()


def test_the_smallest_limit_counts() -> None:
    associations = "ocean|5||normal|normal,long\nweather|||long|\nother|x"
    qualities = "normal|||3\nlong|40||\n"
    assert parse_submit_limit(associations, qualities) == 3
    assert parse_submit_limit(associations, qualities, "weather") == 40
    assert parse_submit_limit("a||||", "") is None
