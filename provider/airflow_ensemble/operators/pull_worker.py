"""Runs one pull worker in a pod of a Kubernetes cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import (
    POD_IDENTIFIER_STATE_KEY,
    KubernetesPodOperator,
)
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import OnKillAction
from airflow.sdk import Context
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
)
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.simulation import Reason, Status
from airflow_ensemble.kubernetes.ends import (
    PodEnd,
    as_told,
    how_ended,
    how_stopped,
    how_vanished,
    is_over,
)
from airflow_ensemble.kubernetes.pod import (
    CONTAINER,
    labels,
    object_name,
    read_secret_key,
    selector,
    worker_arguments,
)
from airflow_ensemble.kubernetes.template import pod_template
from airflow_ensemble.operators.base import (
    EnsembleOperator,
    airflow_errors,
    as_number,
    note_start,
    was_cleared,
)
from airflow_ensemble.operators.dispatch import batch_of
from airflow_ensemble.triggers.own_task import TERMINAL, state_of
from airflow_ensemble.triggers.pull_worker import PullWorkerTrigger, as_plain

if TYPE_CHECKING:
    import jinja2

#: Key of the XCom that says how a task's pod ended.
POD_END = "pod_end"
#: Exit code of a worker that cannot use the index, the output root or the model.
REFUSED = 2
#: Grace period of a pod that names none, seconds: Kubernetes' own.
GRACE_PERIOD = 30
#: Seconds beyond its grace period after which a deleted pod is no longer waited for.
DELETION_PATIENCE = 30.0
#: Template fields that are for Kubernetes.
_TEXT_FIELDS = frozenset({*KubernetesPodOperator.template_fields, "index_secret"})
#: Longest name of a pod, less what makes it unique.
_MAX_NAME = 50


class PullWorkerOperator(EnsembleOperator, KubernetesPodOperator):
    """Runs a worker in a pod, which claims simulations from the output index until none are left.

    It is a ``KubernetesPodOperator``, and takes all that one takes. What the pod is made of comes
    from the arguments, else from ``full_pod_spec`` and the pod template, else from
    ``execution.kubernetes`` of the ensemble file. The address of the output index comes from a
    Secret of the cluster, which is only ever named.

    The index decides what is done, and no pod does: how many there are, and how often one is
    replaced, changes the time that an ensemble takes and nothing else. A pod that did not end well
    is dismissed in the index with the reason that Kubernetes gives, so that what it ran is charged
    rightly and runs again at once; then the task is retried with a new pod. Clear, mark-failed and
    mark-success delete this task's pod; restarts of Airflow delete none. A clear lets the batch's
    failed simulations run again.

    :param registration: the result of ``RegisterSimulationsOperator``. Templated.
    :param worker: the worker's number, to be mapped over. Templated.
    :param index_secret: ``NAME`` or ``NAME/KEY`` of the Secret that holds the index's address as
        the pod is to use it; the key is ``dsn`` by default. Default is
        ``execution.kubernetes.index_secret`` of the ensemble file. Templated.
    :param cpus: simulations that the worker runs at one time; default is
        ``execution.cpus-per-task`` of the ensemble file, else 1. Templated.
    :param deferrable: wait in the triggerer; else the task holds a worker slot.
    :param poll_interval: seconds between two looks at the pod.
    :param logging_interval: seconds between two readings of the pod's log into the task's log
        while the pod runs, when deferred.
    """

    template_fields: Sequence[str] = (
        *EnsembleOperator.template_fields,
        *KubernetesPodOperator.template_fields,
        *("registration", "worker", "index_secret", "cpus"),
    )
    BASE_CONTAINER_NAME = CONTAINER
    ui_color = "#cfe3d4"

    _context: Context | None = None
    _end: PodEnd | None = None

    def __init__(
        self,
        *,
        registration: Any,
        worker: Any = 0,
        index_secret: str | None = None,
        cpus: int | str | None = None,
        deferrable: bool = True,
        poll_interval: float = 10,
        logging_interval: int | None = 30,
        log_pod_spec_on_failure: bool = False,
        map_index_template: str = "worker {{ task.worker }}",
        retries: int = 3,
        retry_delay: timedelta = timedelta(seconds=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            deferrable=deferrable,
            poll_interval=poll_interval,
            logging_interval=logging_interval,
            log_pod_spec_on_failure=log_pod_spec_on_failure,
            map_index_template=map_index_template,
            retries=retries,
            retry_delay=retry_delay,
            **kwargs,
        )
        self.registration = registration
        self.worker = worker
        self.index_secret = index_secret
        self.cpus = cpus

    # --- what Airflow calls -----------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Start a pod, or find the one that an earlier try has started; then wait for its end."""
        self._context = context
        with airflow_errors(), self.open_control() as control:
            batch = batch_of(self.registration)
            self._restart_if_cleared(control, batch, context)
            if not control.index.counts(control.key, Scope(batch=batch)).unfinished:
                self.log.info("batch %s: nothing is left to run, so no pod is needed", batch)
                self._stop_pods(context, Reason.INTERRUPTED, "nothing is left to run")
                return None
            self._fill_in(control, batch)
        return KubernetesPodOperator.execute(self, context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on with what the trigger has found."""
        self._context = context
        if event["status"] == "timeout":
            self._time_out(context, event["message"], event.get("last_log_time"))
        try:
            return super().trigger_reentry(context, event)
        except AirflowException as error:
            if self._end is None:  # nobody could look at the pod any more
                end = how_vanished(event.get("last_seen"), self.base_container_name)
                end = as_told(end, self._events(event["name"], event["namespace"]))
                self._note(context, event["name"], end)
                self._judge(event["name"], end, error)
            raise

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Resume; leave the cluster in order where the trigger could not."""
        self._context = context
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout as error:
            self._time_out(context, str(error))
        except TaskDeferralError as error:
            if context["ti"].try_number > context["ti"].max_tries:
                self._stop_pods(context, Reason.INTERRUPTED, "its trigger failed")
            raise AirflowException(f"the trigger failed: {error}") from error

    def cleanup(
        self,
        pod: Any,
        remote_pod: Any,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Note how the pod ended; then do what any pod's end asks for, and judge it."""
        context = context or self._context
        if self._killed or remote_pod is None or context is None:
            return
        end = self._settle(context, remote_pod, Reason.INTERRUPTED, "its task ended before it did")
        try:
            super().cleanup(pod, remote_pod, xcom_result, context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            self._judge(remote_pod.metadata.name, end, error)

    def on_kill(self) -> None:
        """Delete the pod, if a person has ended this task.

        Airflow calls this in a signal's handler, also when a worker is merely shut down. A thread
        finds out what it was, for the main one may be in the middle of talking to Airflow.
        """
        self._killed = True
        threading.Thread(target=self._delete_if_ended, name="delete pod").start()

    def defer(self, *, trigger: Any, **options: Any) -> NoReturn:
        """Wait with this package's trigger in place of Airflow's own."""
        if isinstance(trigger, KubernetesPodTrigger):
            trigger = PullWorkerTrigger.of(trigger)
        super().defer(trigger=trigger, **options)

    def convert_config_file_to_dict(self) -> None:
        """Read the kubeconfig that this task names, and no other.

        Airflow also takes the one of the worker's environment, which its triggerer then refuses
        beside a connection that names one.
        """
        if self.config_file:
            super().convert_config_file_to_dict()  # type: ignore[no-untyped-call]

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render what Kubernetes is given to text: there, the text ``1`` is no number.

        None renders to the empty text, which leaves it to the ensemble file, and never to ``None``.
        """
        render = super()._do_render_template_fields
        if parent is not self:
            render(parent, template_fields, context, jinja_env, seen_oids)
            return
        text = [name for name in template_fields if name in _TEXT_FIELDS]
        ours = [name for name in template_fields if name not in text]
        render(parent, ours, context, jinja_env, seen_oids)
        env = self.get_template_env().overlay(finalize=_as_text)
        KubernetesPodOperator._do_render_template_fields(
            self, parent, text, context, env, seen_oids
        )

    # --- what the pod is made of ------------------------------------------------------------------

    def _fill_in(self, control: Control, batch: str) -> None:
        """Put what the ensemble file says under what the task says."""
        ensemble = control.ensemble
        options = ensemble.execution.get("kubernetes") or {}
        secret = self.index_secret or options.get("index_secret")
        if not secret:
            raise AirflowFailException(
                _not_named("Secret with the index's address", "index_secret")
            )
        arguments = worker_arguments(
            ensemble.name,
            control.key.settings_hash[:16],
            cpus=as_number(self.cpus, "cpus") or int(ensemble.execution.get("cpus-per-task") or 1),
            failed_ok=True,
        )
        own = labels(ensemble.name, batch)
        template = pod_template(
            options, index=read_secret_key(secret), arguments=arguments, labels=own
        )
        self.full_pod_spec = self._above(template)
        self.pod_template_file = self.pod_template_dict = None
        self.labels = {**self.labels, **own}
        self.name = self.name or object_name(f"{ensemble.name}-{self.worker}", _MAX_NAME)
        if not (self.image or self.full_pod_spec.spec.containers[0].image):
            raise AirflowFailException(_not_named("image of the worker", "image"))

    def _above(self, template: Mapping[str, Any]) -> Any:
        """Return a template with the user's own above it."""
        pods = [PodGenerator.deserialize_model_dict(dict(template))]
        if self.pod_template_file:
            pods.append(PodGenerator.deserialize_model_file(self.pod_template_file))
        elif self.pod_template_dict:
            pods.append(PodGenerator.deserialize_model_dict(self.pod_template_dict))
        if self.full_pod_spec:
            pods.append(self.full_pod_spec)
        return reduce(PodGenerator.reconcile_pods, pods)

    # --- the end of a pod -------------------------------------------------------------------------

    def _settle(self, context: Context, pod: Any, reason: Reason, detail: str) -> PodEnd:
        """Say in the index how a pod has ended; one that has not is deleted first.

        :param pod: as it was seen last.
        :param reason: what is charged when we end it.
        :param detail: why we do.
        """
        name, container = pod.metadata.name, self.base_container_name
        now = self._read(pod)
        if now is None or is_over(as_plain(now), container):
            how = how_vanished if now is None else how_ended
            end = how(as_plain(now or pod), container)
            end = as_told(end, self._events(name, pod.metadata.namespace))
        else:
            end = how_stopped(as_plain(now), reason, detail, container)
            self._delete(now)
            if not self._await_deletion(now):
                self._tell(context, name, end)
                return end  # when its worker has ended, its lease will say
        self._note(context, name, end)
        return end

    def _note(self, context: Context, name: str, end: PodEnd) -> None:
        """Dismiss the pod's worker, and tell of its end."""
        reason = end.reason or Reason.INTERRUPTED
        try:
            with self.open_control() as control:
                back = control.index.dismiss(name, reason, f"pod {name}: {end.detail}")
            self.log.info("pod %s: %d simulations taken back", name, back)
        except EnsembleError as error:
            self.log.warning("what pod %s held is free when its lease ends: %s", name, error)
        self._tell(context, name, end)

    def _tell(self, context: Context, name: str, end: PodEnd) -> None:
        """Leave for the sensor and for people how the pod ended."""
        self._end = end
        reason = end.reason.value if end.reason else None
        log = self.log.info if end.reason is None else self.log.warning
        log("pod %s: %s%s", name, f"{reason}: " if reason else "", end.detail)
        context["ti"].xcom_push(POD_END, {"pod": name, "reason": reason, "detail": end.detail})

    def _judge(self, name: str, end: PodEnd, error: BaseException) -> NoReturn:
        """Fail this try; what a worker refuses, it refuses the next time, too."""
        kind = AirflowFailException if end.exit_code == REFUSED else AirflowException
        raise kind(f"pod {name}: {end.detail}") from error

    def _time_out(self, context: Context, message: str, logged_until: Any = None) -> NoReturn:
        """Delete the pod, whose time is up; the next try has a new one, and time of its own.

        :param message: what Airflow's trigger says: a pod has less time to start than to run.
        :param logged_until: up to when its log stands in the task's log.
        """
        limit = self.execution_timeout
        detail = f"the task's execution_timeout of {limit} has passed" if limit else message
        for pod in self._own_pods(context):
            self._log_rest(pod, logged_until)
        self._stop_pods(context, Reason.TIME_LIMIT, detail)
        raise AirflowTaskTimeout(self._end.detail if self._end else detail)

    def _log_rest(self, pod: Any, since: Any) -> None:
        try:
            self._write_logs(pod, since_time=since)
        except (ApiException, HTTPError) as error:
            self.log.warning("the rest of the pod's log cannot be read: %s", error)

    def _restart_if_cleared(self, control: Control, batch: str, context: Context) -> None:
        if was_cleared(context):
            self._stop_pods(context, Reason.INTERRUPTED, "its task was cleared")
            failed = Scope(batch=batch, statuses=(Status.FAILED,))
            again = control.index.retry(control.key, failed)
            self.log.info("cleared: %d failed simulations run again", again)
        note_start(context)

    # --- the cluster ------------------------------------------------------------------------------

    def _own_pods(self, context: Context) -> list[Any]:
        """Return the pods that this task instance has started in any of its tries."""
        known = context["task_state_store"].get(POD_IDENTIFIER_STATE_KEY)
        if not isinstance(known, Mapping):
            return []
        mine = selector(self._get_ti_pod_labels(context, include_try_number=False))
        found = self.client.list_namespaced_pod(str(known["namespace"]), label_selector=mine)
        return list(found.items)

    def _stop_pods(self, context: Context, reason: Reason, detail: str) -> None:
        for pod in self._own_pods(context):
            self._settle(context, pod, reason, detail)

    def _read(self, pod: Any) -> Any:
        """Return a pod as it is now; None when it is gone."""
        try:
            return self.hook.get_pod(pod.metadata.name, pod.metadata.namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _events(self, name: str, namespace: str) -> list[dict[str, Any]]:
        """Return what has been told about a pod; nothing where that may not be read."""
        about = f"involvedObject.name={name}"
        try:
            found = self.client.list_namespaced_event(namespace, field_selector=about)
        except (ApiException, HTTPError) as error:
            self.log.warning("the events of pod %s cannot be read: %s", name, error)
            return []
        return [event.to_dict() for event in found.items]

    def _delete(self, pod: Any) -> None:
        self.log.info("deleting pod %s", pod.metadata.name)
        options = {"grace_period_seconds": self.termination_grace_period}
        try:
            self.client.delete_namespaced_pod(
                pod.metadata.name,
                pod.metadata.namespace,
                **{key: value for key, value in options.items() if value is not None},
            )
        except ApiException as error:
            if error.status != 404:
                raise

    def _await_deletion(self, pod: Any) -> bool:
        """Return whether a deleted pod is gone within its grace period, or soon after."""
        grace = pod.spec.termination_grace_period_seconds or GRACE_PERIOD
        deadline = time.monotonic() + grace + DELETION_PATIENCE
        while time.monotonic() < deadline:
            now = self._read(pod)
            if now is None or is_over(as_plain(now), self.base_container_name):
                return True
            time.sleep(1.0)
        return False

    def _delete_if_ended(self) -> None:
        context = self._context
        if context is None or self.on_kill_action is OnKillAction.KEEP_POD:
            return
        if state_of(context["ti"]) in TERMINAL:
            for pod in self._own_pods(context):
                self._delete(pod)


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


def _not_named(what: str, name: str) -> str:
    return (
        f"the {what} is not named: give {name} to the task, or execution.kubernetes.{name} in the "
        "ensemble file"
    )
