"""One simulation of a model: how a model is found, called, and judged.

A model is a Python callable ``module:function`` that takes a :class:`Run` and returns its products,
or a command (see :mod:`airflow_ensemble.engine.command`). Whatever goes wrong inside it ends as a
:class:`Result` with a reason of the closed list. Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.products import Failure, Publish, collect_products
from airflow_ensemble.engine.recipe import ProductSpec, Settings
from airflow_ensemble.engine.simulation import Product, ProductStatus, Reason
from airflow_ensemble.engine.storage import StorageError
from airflow_ensemble.engine.words import describe, detail_of, one_line


class Invalid(Failure):
    """To be raised by a model when a simulation can never run: it is not tried again.

    :param why: one line for people.
    """

    def __init__(self, why: str) -> None:
        super().__init__(Reason.INVALID, why)


@dataclass(frozen=True)
class Run:
    """What a model is given for one simulation.

    :param id: the simulation's id.
    :param params: the ensemble's common parameters and the simulation's own; its own win.
    :param workdir: an empty directory of its own, also the current one; removed afterwards.
    :param seed: of the row's column ``seed``, 0 … 2**32 - 1; without one 1 … 2**31 - 1, from the
        ensemble's seed and the id alone.
    :param cpus: cores that the simulation may use.
    :param attempt: the attempt's number, from 1.
    :param products: the names that the ensemble declares; a model may leave out all others.
    :param written: parameters as commands get them, where a number or truth value was written
        otherwise than Python prints it: ``{"release": "1.10"}``.
    """

    id: str
    params: Mapping[str, Any]
    workdir: Path
    seed: int
    cpus: int = 1
    attempt: int = 1
    products: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came of one simulation.

    :param reason: None when it completed.
    :param detail: for people, printable and bounded; the first line says the most.
    :param products: one record per declared product.
    :param signal: the signal that ended the model's own process, if one did.
    """

    reason: Reason | None = None
    detail: str = ""
    products: Sequence[Product] = field(default_factory=tuple)
    signal: int | None = None


#: A loaded model: returns a product's value by its name.
Model = Callable[[Run], Mapping[str, Any]]


def load_model(settings: Settings, code: Sequence[str] = ()) -> Model:
    """Find the model, so that a missing one is known before any simulation begins.

    :param settings: names the model or the command.
    :param code: directories put first on the import path, and searched for the program first.
    :raises ModelError: naming the module, function or program, and why it cannot be used.
    """
    if settings.command:
        from airflow_ensemble.engine.command import load_command

        return load_command(settings.command, settings.products, code)
    if not settings.model:
        raise ModelError("the ensemble names neither a 'model' nor a 'command'")
    sys.path[:0] = [folder for folder in code if folder not in sys.path]
    return PythonModel(load_function(settings.model))


def load_function(reference: str) -> Callable[[Run], Any]:
    """Import ``module:function`` and check that it can be called with one argument.

    :raises ModelError: naming the module or function and why it cannot be used.
    """
    module_name, _, path = reference.partition(":")
    if not module_name or not path:
        raise ModelError(f"model {reference!r} is not of the form 'module:function'")
    target: Any = _import(module_name, reference)
    for name in path.split("."):
        if not hasattr(target, name):
            raise ModelError(
                f"model {reference!r}: module {module_name!r} ({_origin(module_name)}) "
                f"has no {path!r}"
            )
        target = getattr(target, name)
    if not callable(target):
        raise ModelError(f"model {reference!r} is a {type(target).__name__}, not a function")
    _check_signature(target, reference)
    function: Callable[[Run], Any] = target
    return function


def execute(model: Model, run: Run, specs: Sequence[ProductSpec], publish: Publish) -> Result:
    """Run one simulation and publish its products, whatever the model does.

    Tracebacks go to the standard error stream, which is the simulation's log.

    :param model: from :func:`load_model`.
    :param run: what to run.
    :param specs: what must come of it.
    :param publish: brings a finished file under its final name; gives path, size and checksum.
    """
    try:
        return Result(products=collect_products(model(run), specs, run.workdir, publish))
    except Failure as failure:
        return _failed(failure.reason, str(failure), specs, failure.signal)
    except StorageError as error:
        # Not the simulation's fault: a full disk must not burn the attempts of all.
        print(f"not published: {error}", file=sys.stderr)
        return _failed(Reason.INTERRUPTED, f"its products could not be published: {error}", specs)
    except MemoryError as error:
        _print_traceback()
        return _failed(Reason.OUT_OF_MEMORY, describe(error), specs)
    except SystemExit as error:
        _print_traceback()
        return _failed(Reason.ERROR, f"the model called sys.exit({error.code!r})", specs)
    except BaseException as error:
        _print_traceback()
        return _failed(Reason.ERROR, describe(error), specs)


def remove_workdir(workdir: Path) -> None:
    """Remove a simulation's directory, however the model left it; what resists stays."""
    try:
        workdir.rmdir()
        return
    except OSError:
        pass
    shutil.rmtree(workdir, ignore_errors=True)
    if workdir.exists():
        for folder, _, _ in os.walk(workdir):
            _make_writable(folder)
        shutil.rmtree(workdir, ignore_errors=True)


class PythonModel:
    """A Python function as a model.

    :param function: from :func:`load_function`.
    """

    def __init__(self, function: Callable[[Run], Any]) -> None:
        self._function = function

    def __call__(self, run: Run) -> Mapping[str, Any]:
        """Call the function; a process that it forked never comes back from here."""
        pid = os.getpid()
        try:
            values = self._function(run)
        except BaseException as error:
            if os.getpid() != pid:
                _leave_fork(error)
            raise
        if os.getpid() != pid:
            _leave_fork(None)
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            raise Failure(
                Reason.ERROR,
                f"the model returned a {type(values).__name__}: return a mapping from product "
                "names to products",
            )
        return values


def _print_traceback() -> None:
    with contextlib.suppress(
        ValueError
    ):  # the model has closed it: the reason is told all the same
        traceback.print_exc()


def _failed(
    reason: Reason, detail: str, specs: Sequence[ProductSpec], signal: int | None = None
) -> Result:
    products = tuple(Product(spec.name, ProductStatus.FAILED) for spec in specs)
    return Result(reason, detail_of(detail), products, signal)


def _leave_fork(error: BaseException | None) -> NoReturn:
    # A fork that returns from the model would otherwise run the worker's own loop a second time.
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _import(module_name: str, reference: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ModelError(
                f"model {reference!r}: no module named {error.name!r}. Install it where "
                f"{sys.executable} finds it, or name its folder in 'execution: code'"
            ) from error
        raise ModelError(
            f"model {reference!r}: importing {module_name!r} failed: {one_line(describe(error))}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"model {reference!r}: importing {module_name!r} failed: {one_line(describe(error))}"
        ) from error


def _check_signature(function: Callable[..., Any], reference: str) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a builtin does not tell
        return
    try:
        signature.bind(object())
    except TypeError as error:
        raise ModelError(
            f"model {reference!r} has the signature {signature}: it must take one argument, the run"
        ) from error


def _origin(module_name: str) -> str:
    return str(getattr(sys.modules.get(module_name), "__file__", None) or "built in")


def _make_writable(folder: str) -> None:
    with contextlib.suppress(OSError):
        Path(folder).chmod(0o700)
