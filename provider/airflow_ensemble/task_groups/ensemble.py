"""A whole ensemble as one task group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from airflow.sdk import Asset, TaskGroup

from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.register import RegisterSimulationsOperator
from airflow_ensemble.task_groups.local import Local


class Backend(Protocol):
    """Where chunks run: adds the tasks between registration and collection."""

    @property
    def collect_operator(self) -> type[CollectOperator]:
        """Return what collects the products."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Return further arguments of every ensemble operator of the group."""

    def add_tasks(self, registration: Any, common: Mapping[str, Any]) -> Any:
        """Add the backend's tasks to the current task group.

        :param registration: the output of the registering task.
        :param common: what every ensemble operator is given: ensemble, overrides, simulations, and
            the backend's options.
        :return: the last of its tasks.
        """


class EnsembleTaskGroup(TaskGroup):
    """Registers an ensemble's simulations, runs them in chunks, and collects the products.

    ::

        EnsembleTaskGroup("footprints", ensemble="footprints.yaml", backend=Local())

    In templated arguments, ``"{{ params.n_hours }}"`` and nothing else is the value itself, so that
    a number stays a number; any other text is a text, and stays as it was written where there is no
    template in it.

    :param group_id: name of the group.
    :param ensemble: path of the ensemble file; a relative one is relative to the DAG file's folder.
    :param backend: where the chunks run; default is this Airflow's own workers.
    :param overrides: values over those of the ensemble file; None leaves the file's. Templated.
    :param simulations: another table than the file's. Templated.
    :param asset: updated by the collecting task, with the counts in the event's ``extra``; a name,
        or an ``Asset``; default is an asset named after the group.
    :param to: where the collected dataset is written, if anywhere. Templated.
    :param format: ``zarr`` or ``netcdf``; default is what the ending of ``to`` says.
    :param align: what that dataset does with axes of different sizes: ``exact`` refuses them,
        ``outer`` joins them to their union. Templated.
    :param products: only these in that dataset; all when empty.
    :param options: further arguments of ``TaskGroup``.
    """

    def __init__(
        self,
        group_id: str,
        *,
        ensemble: str,
        backend: Backend | None = None,
        overrides: Mapping[str, Any] | str | None = None,
        simulations: Any = None,
        asset: Asset | str | None = None,
        to: str | None = None,
        format: str | None = None,
        align: str = "exact",
        products: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(group_id=group_id, **options)
        backend = backend or Local()
        common: dict[str, Any] = {
            "ensemble": ensemble,
            "overrides": overrides,
            "simulations": simulations,
            **backend.options,
        }
        with self:
            register = RegisterSimulationsOperator(task_id="register", **common)
            last = backend.add_tasks(register.output, common)
            collect = backend.collect_operator(
                task_id="collect",
                registration=register.output,
                asset=asset or group_id,
                to=to,
                format=format,
                align=align,
                products=products,
                **common,
            )
            last >> collect
