"""Collects an ensemble's products and gives the DAG its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow.sdk import Asset, Context, TriggerRule
from airflow.sdk.exceptions import AirflowFailException

from airflow_ensemble.engine.batch import verdict
from airflow_ensemble.engine.collect import open_collection, write_collection
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.ensemble.paths import HERE, Side, expand
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import Counts, Result, Scope
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.engine.simulation import TERMINAL, Status
from airflow_ensemble.engine.stacking import check_align
from airflow_ensemble.engine.standing import in_table_order
from airflow_ensemble.engine.words import one_line
from airflow_ensemble.operators.base import EnsembleOperator, airflow_errors, as_text
from airflow_ensemble.operators.dispatch import batch_of

#: Unfinished simulations that a failed verdict names.
MAX_NAMED = 20


class CollectOperator(EnsembleOperator):
    """Judges this run's batch, collects its products into one dataset, and updates an asset.

    It runs whatever became of the chunks (``all_done``), also when there were none: a night with
    nothing to do succeeds and updates its asset. It fails when more simulations of the batch failed
    than the ensemble's ``max_failed`` allows, or when some have not run at all. Simulations that
    another run holds are that run's to judge: they are only warned of.

    The asset event's ``extra`` holds the counts, the output root, and where the dataset lies.

    :param registration: the result of ``RegisterSimulationsOperator``. Templated.
    :param asset: name of the asset to update, or the asset itself.
    :param to: path or URI to write the dataset to, in one step; absent, no product is opened.
        Variables and ``~`` are put in on the side that writes it. Templated.
    :param format: ``zarr`` or ``netcdf``; default is what the ending of ``to`` says.
    :param align: ``exact`` refuses axes of different sizes, ``outer`` joins them to their union.
        Templated.
    :param products: only these in the dataset; all when empty.
    """

    template_fields: Sequence[str] = (
        *EnsembleOperator.template_fields,
        "registration",
        "to",
        "align",
    )
    ui_color = "#d5ecd9"

    def __init__(
        self,
        *,
        registration: Any,
        asset: Asset | str | None = None,
        to: str | None = None,
        format: str | None = None,
        align: str = "exact",
        products: Sequence[str] = (),
        trigger_rule: str = TriggerRule.ALL_DONE,
        retries: int = 1,
        **kwargs: Any,
    ) -> None:
        if asset is not None:
            asset = Asset(asset) if isinstance(asset, str) else asset
            kwargs["outlets"] = [*(kwargs.get("outlets") or []), asset]
        super().__init__(trigger_rule=trigger_rule, retries=retries, **kwargs)
        self.registration = registration
        self.asset = asset
        self.to = to
        self.format = format
        self.align = align
        self.products = products

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge, collect, and return what the asset event says."""
        with airflow_errors(), self.open_control() as control:
            self.judge(control)
            return self.report(context, control, self._collect(control))

    def judge(self, control: Control) -> None:
        """Fail when too many simulations of the batch have failed, or some have not run.

        :raises AirflowFailException: then, after their names were logged.
        """
        batch = batch_of(self.registration)
        ingest(control)
        counts = control.index.counts(control.key, Scope(batch=batch))
        elsewhere = self.registration.get("elsewhere", 0)
        if elsewhere:
            self.log.warning(
                "%d simulations were running elsewhere when this run registered: theirs is the "
                "verdict on them",
                elsewhere,
            )
        judgement = verdict(counts, control.ensemble.max_failed)
        if judgement.ok:
            self.log.info("batch %s: %s", batch, judgement.message)
            return
        for line in name_offenders(control, Scope(batch=batch), self.command_arguments):
            self.log.error("%s", line)
        raise AirflowFailException(f"batch {batch}: {judgement.message}")

    def report(self, context: Context, control: Control, written: str | None) -> dict[str, Any]:
        """Put the facts of the batch into the asset event, and return them.

        :param written: where the dataset lies, if it was written.
        """
        counts = control.index.counts(control.key, Scope(batch=batch_of(self.registration)))
        facts = describe(control, self.registration, counts, written)
        if self.asset is not None:
            context["outlet_events"][self.asset].extra = facts
        return facts

    def results(self, control: Control) -> list[Result]:
        """Return the batch's results in table order; says so when there are none."""
        found = list(control.index.results(control.key, Scope(batch=batch_of(self.registration))))
        if not found:
            self.log.info("no simulation of this batch is complete: there is no dataset")
            return []
        try:
            return in_table_order(control, found)
        except UsageError as error:
            self.log.warning("the simulations come in the order of their registration: %s", error)
            return found

    def _collect(self, control: Control) -> str | None:
        """Open the dataset, and write it where that was asked for; return where it is."""
        target = self._target()
        results = self.results(control) if target else []
        return self.write(control, results, target) if target and results else None

    def write(self, control: Control, results: Sequence[Result], target: str) -> str:
        """Write the dataset of results, and return where it is."""
        chosen = self.products or None
        dataset = open_collection(results, control.root, chosen, align=self.alignment)
        self.log.info("dataset of %d simulations:\n%s", len(results), dataset)
        return write_collection(dataset, target, self.format)

    @property
    def alignment(self) -> str:
        """Return what is done with axes of different sizes; an empty field refuses them.

        :raises UsageError: when it is not known.
        """
        return check_align(as_text(self.align, "align") or "exact")

    def _target(self, side: Side = HERE) -> str | None:
        """Return where ``to`` leads, on the side that writes the dataset; None without it."""
        to = as_text(self.to, "to")
        return None if to is None else expand(to, Place(f"task {self.task_id!r}", "to"), side)


def name_offenders(control: Control, scope: Scope, target: str) -> list[str]:
    """Return a line for each of the first simulations that failed or did not run.

    :param scope: which simulations, whatever their status.
    :param target: the arguments with which ``ensemble`` finds them.
    """
    statuses = [status for status in Status if status not in TERMINAL] + [Status.FAILED]
    scope = replace(scope, statuses=statuses)
    found = list(control.index.simulations(control.key, scope, limit=MAX_NAMED))
    lines = [
        f"{info.simulation.id}: {info.status.value}"
        + (f", {info.reason.value}: {one_line(info.detail)}" if info.reason else "")
        for info in found
    ]
    return [*lines, f"more: ensemble status --all {target}", f"a log: ensemble logs ID {target}"]


def describe(
    control: Control, registration: Mapping[str, Any], counts: Counts, written: str | None
) -> dict[str, Any]:
    """Return the facts of a batch as JSON values, for the asset event."""
    return {
        "ensemble": control.ensemble.name,
        "settings": control.recipe.hash8,
        "batch": registration["batch"],
        "generation": registration["generation"],
        "output": control.root.uri,
        "dataset": written,
        "total": counts.total,
        "complete": counts.complete,
        "empty": counts.empty,
        "failed": counts.failed,
        "elsewhere": registration.get("elsewhere", 0),
    }
