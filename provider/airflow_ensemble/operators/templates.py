"""Templates whose values arrive as they are: what was rendered is not read a second time.

Airflow renders to text, or to "native" objects. For these it reads *every* text again as a Python
literal, so that the day ``2024_01_01`` becomes a number and the release ``1.10`` the number 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.sdk import BaseOperator, Context
from jinja2 import Environment, nodes
from jinja2.environment import TemplateExpression
from jinja2.runtime import Undefined


class ExactTemplates(BaseOperator):
    """Renders the templated fields of an operator by three rules, whatever its DAG asks for.

    A text without a template stays as it was written. A text that is one expression and nothing
    else, such as ``"{{ params.n }}"``, becomes the expression's value. Every other text becomes a
    text, such as ``"v{{ params.n }}"``.

    :param options: further arguments of the operator; ``render_template_as_native_obj`` changes
        nothing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "render_template_as_native_obj": False})

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Return a value with the templates in it rendered, at any depth."""
        env = jinja_env or self.get_template_env()
        if isinstance(content, str) and not content.endswith(tuple(self.template_ext)):
            if id(content) in (seen_oids or ()) or is_plain(content, env):
                return content
            expression = only_expression(content, env)
            if expression is not None:
                return evaluate(expression, context, env)
        return super().render_template(content, context, env, seen_oids)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: Environment,
        seen_oids: set[int],
    ) -> None:
        """Render with an environment for texts: the one that is handed in may be a native one."""
        if parent is self:
            jinja_env = self.get_template_env().overlay(keep_trailing_newline=True)
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)


def is_plain(text: str, env: Environment) -> bool:
    """Return whether a text holds no template."""
    return all(kind == "data" for _, kind, _ in env.lex(text))


def only_expression(text: str, env: Environment) -> nodes.Expr | None:
    """Return the expression that is all of a text but for white space; None when there is more."""
    body = env.parse(text).body
    if len(body) != 1 or not isinstance(body[0], nodes.Output):
        return None
    parts = [part for part in body[0].nodes if not _is_blank(part)]
    if len(parts) != 1 or isinstance(parts[0], nodes.TemplateData):
        return None
    return parts[0]


def evaluate(expression: nodes.Expr, context: Context, env: Environment) -> Any:
    """Return an expression's value.

    :raises UndefinedError: when it, or something in it, is undefined, and the DAG's environment
        does not let that pass.
    """
    assignment = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
    template = env.from_string(nodes.Template([assignment], lineno=1))
    value = _defined(TemplateExpression(template, undefined_to_none=False)(context))
    return env.finalize(value) if env.finalize else value


def _is_blank(part: nodes.Expr) -> bool:
    return isinstance(part, nodes.TemplateData) and not part.data.strip()


def _defined(value: Any) -> Any:
    """Return a value in which nothing is undefined: what is, is what it would be in a text."""
    if isinstance(value, Undefined):
        return str(value)
    if type(value) is dict:
        return {_defined(key): _defined(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_defined, value))
    return value
