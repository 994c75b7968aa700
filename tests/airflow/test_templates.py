"""Templates of operators: what was written is what arrives, read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from airflow.sdk.log import mask_secret
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.operators.base import EnsembleOperator
from airflow_ensemble.operators.register import RegisterSimulationsOperator

#: Texts that Python, YAML or JSON would read as something else, and pieces of them.
TRICKY = (
    *("2024_01_01", "1.10", "12e3", "None", "1,2", "1_0", "007", "1e5", "0x10", "1e400", "nan"),
    *(
        "True",
        "false",
        "null",
        "~",
        "''",
        '"a"',
        "[1]",
        "{}",
        "{'a': 1}",
        "(1,)",
        "1j",
        "...",
        " 5 ",
    ),
    *(
        "2024-01-01",
        "10:00:00",
        "b'x'",
        "1.0",
        "-0",
        "+1",
        "1\n",
        "\n",
        "",
        "{",
        "}",
        "a } b { c",
        "%",
    ),
)
texts = st.one_of(
    st.sampled_from(TRICKY),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(),
)
#: What JSON gives, as the ``conf`` of a trigger does.
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
#: How a DAG or an operator may ask for another rendering.
WISHES = [(dag, task) for dag in (False, True) for task in (None, False, True)]


def task(dag_is_native: bool = False, native: bool | None = None, **options: Any) -> Any:
    with DAG("d", render_template_as_native_obj=dag_is_native, **options.pop("dag", {})):
        return RegisterSimulationsOperator(
            task_id="t",
            ensemble=options.pop("ensemble", "e.yaml"),
            render_template_as_native_obj=native,
            **options,
        )


def rendered(value: Any, operator: Any = None, **context: Any) -> Any:
    """Return what the runner makes of a value: it hands in the environment of the DAG."""
    operator = operator or task()
    operator.simulations = {"value": value}
    operator.render_template_fields(context, operator.dag.get_template_env())
    return operator.simulations["value"]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, and of one kind at every depth."""
    return repr(one) == repr(other)


@pytest.mark.parametrize(("dag", "native"), WISHES)
@pytest.mark.parametrize("text", TRICKY)
def test_a_text_without_a_template_stays_as_it_was_written(
    text: str, dag: bool, native: bool | None
) -> None:
    assert same(rendered(text, task(dag, native)), text)


@pytest.mark.parametrize(("dag", "native"), WISHES)
@pytest.mark.parametrize("value", [*TRICKY, 5, 1.5, None, True, [1, "1"], {"1.10": {"a": None}}])
def test_a_whole_expression_is_the_value_itself(value: Any, dag: bool, native: bool | None) -> None:
    assert same(rendered("{{ params.x }}", task(dag, native), params={"x": value}), value)


@given(text=texts)
def test_no_text_is_read_as_anything_else(text: str) -> None:
    operator = task(dag_is_native=True)
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        assert same(rendered(text, operator), text)
    nested = {"a": [text, (text, {"b": text})], text: 1}
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        assert same(rendered(nested, operator), nested)


@given(value=values, before=st.sampled_from(["", " ", "\n\t"]), after=st.sampled_from(["", " \n"]))
def test_every_value_of_a_form_arrives(value: Any, before: str, after: str) -> None:
    operator = task(dag_is_native=True)
    text = f"{before}{{{{ params.x }}}}{after}"
    assert same(rendered(text, operator, params={"x": value}), value)
    assert same(rendered([{"k": text}], operator, params={"x": value}), [{"k": value}])


@given(
    value=st.one_of(st.none(), st.integers(), texts),
    before=st.sampled_from(["v", "0", "1.", "'", "["]),
    after=st.sampled_from(["", "0", ".10", "'", "]", "\n"]),
)
def test_a_text_with_a_template_in_it_is_a_text(value: Any, before: str, after: str) -> None:
    operator = task(dag_is_native=True)
    text = f"{before}{{{{ params.x }}}}{after}"
    assert same(rendered(text, operator, params={"x": value}), f"{before}{value}{after}")


@pytest.mark.parametrize("dag", [False, True])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v{{ 1 }}.10", "v1.10"),
        ("{{ 1 }}{{ 0 }}", "10"),
        ("{{ 1 }} {{ 2 }}", "1 2"),
        ("{% if true %}1.10{% endif %}", "1.10"),
        ("{% if false %}1{% endif %}", ""),
        ("{% raw %}{{ 1 }}{% endraw %}", "{{ 1 }}"),
        ("{% set x %}1.10{% endset %}v{{ x }}", "v1.10"),
        ("{% macro m() %}1.10{% endmacro %}{{ m() }}", "1.10"),
        ("{# why #}1.10", "1.10"),
        ("{# why #}{{ 1 }}", 1),
        ("{{- 1 -}}", 1),
        ("{{ '1.10' }}", "1.10"),
        ("{{ 1.10 }}", 1.1),
        ("{{ '{{ 1 }}' }}", "{{ 1 }}"),
        ("{{ none }}", None),
        ("{{ 1, '1' }}", (1, "1")),
        ("{{ {'a': ['007', 7]} }}", {"a": ["007", 7]}),
        ("{{ '7' | int }}", 7),
        ("{{ 7 | string }}", "7"),
        ("{{ result }}", "from the context"),
    ],
)
def test_expressions_and_texts(text: str, expected: Any, dag: bool) -> None:
    assert same(rendered(text, task(dag), result="from the context"), expected)


def test_keys_and_other_values_are_left_alone() -> None:
    value = {"{{ 1 }}": {1: True, None: 1.5, (1, 2): Path("1.10")}, "s": {3}}
    assert same(rendered(value), value)


@pytest.mark.parametrize(
    "text",
    ["{{ gone }}", "{{ params.gone }}", "{{ [1, {'a': gone}] }}", "{{ {gone: 1} }}", "a{{ gone }}"],
)
@pytest.mark.parametrize("dag", [False, True])
def test_what_is_undefined_is_refused_at_any_depth(text: str, dag: bool) -> None:
    with pytest.raises(jinja2.UndefinedError, match="gone"):
        rendered(text, task(dag), params={})


def test_a_dag_may_let_undefined_values_pass() -> None:
    lenient = task(dag={"template_undefined": jinja2.Undefined})
    assert rendered("{{ gone }}", lenient) == ""
    assert rendered("{{ [gone] }}", lenient) == [""]


def test_what_a_dag_adds_to_templates_is_there() -> None:
    operator = task(
        dag_is_native=True,
        dag={
            "user_defined_macros": {"release": "1.10", "twice": lambda n: 2 * n},
            "user_defined_filters": {"shout": str.upper},
            "jinja_environment_kwargs": {
                "variable_start_string": "<<",
                "variable_end_string": ">>",
            },
        },
    )
    assert rendered("<< release >>", operator) == "1.10"
    assert rendered("<< twice(2) >>", operator) == 4
    assert rendered("<< 'a' | shout >>", operator) == "A"
    assert rendered("{{ 1 }}", operator) == "{{ 1 }}"


def test_a_broken_template_is_an_error_that_names_it() -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        rendered("{{ 1 ")


class FromFile(EnsembleOperator):
    template_ext = (".j2",)


def test_the_files_of_templates_are_read_by_the_same_rules(tmp_path: Path) -> None:
    (tmp_path / "all.j2").write_text("{{ params.x }}")
    (tmp_path / "some.j2").write_text("1.{{ 1 }}0\n")
    with DAG("d", template_searchpath=str(tmp_path), render_template_as_native_obj=True):
        operator = FromFile(task_id="t", ensemble="some.j2", overrides="all.j2")
    operator.simulations = ["some.j2", {"deep": "some.j2"}]
    operator.resolve_template_files()
    operator.render_template_fields({"params": {"x": {"a": "1_0"}}})  # type: ignore[typeddict-item,typeddict-unknown-key]
    assert operator.overrides == {"a": "1_0"}
    assert operator.ensemble == "1.10\n"
    assert operator.simulations[0] == "1.10\n"


def test_a_secret_that_a_template_gives_is_masked() -> None:
    mask_secret("hunter2hunter2")
    operator = task(overrides={"output": "{{ params.x }}", "a": {"b": ["{{ params.x }}"]}})
    operator.render_template_fields({"params": {"x": "hunter2hunter2"}})
    assert operator.overrides == {"output": "hunter2hunter2", "a": {"b": ["hunter2hunter2"]}}
    assert "hunter2" not in str(_serialize_rendered_fields(operator))
