"""Waiting on a login node for array jobs: look, settle what ended, submit again what is left."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_ensemble.cli.slurm.jobs import count_words
from airflow_ensemble.engine.errors import EnsembleError, Interrupted, ModelError
from airflow_ensemble.slurm.states import Phase

if TYPE_CHECKING:
    from airflow_ensemble.cli.progress import Progress
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import ElementInfo, Scope
    from airflow_ensemble.slurm.cluster import Cluster
    from airflow_ensemble.slurm.decision import Over
    from airflow_ensemble.slurm.settling import Settled
    from airflow_ensemble.slurm.states import View
    from airflow_ensemble.slurm.watch import ClusterWatch, News, Watched

log = logging.getLogger(__name__)

#: Submissions of one chunk in a row that finish nothing, after which it is given up.
MAX_FRUITLESS = 3
#: Seconds between two questions to Slurm, to which they slacken while results tell how things go.
SLURM_CEILING = 30.0
#: The shortest time in seconds between two looks.
QUICKEST = 0.2
#: By how much looks slacken when they find nothing new.
SLACKENING = 1.5
#: What the waiting ends with when it is asked to stop.
DETACHED = "detached: the array jobs go on without this command"


@dataclass
class _Chunk:
    """A chunk that is waited for.

    :param id: its id.
    :param unfinished: its simulations that were not terminal when it was last settled.
    :param watched: its newest submission; None while it has to be submitted.
    :param ended: whether an earlier submission of it has ended here.
    :param fruitless: submissions in a row that finished nothing.
    """

    id: str
    unfinished: int
    watched: Watched | None = None
    ended: bool = False
    fruitless: int = 0


@dataclass
class ArrayWait:
    """Follows batches of array jobs until nothing of them is left to wait for.

    :param control: the opened ensemble.
    :param cluster: where the jobs are.
    :param scope: the simulations whose counts are shown.
    :param progress: shows them.
    :param stop: set it to detach.
    :param poll: seconds between two looks at most.
    """

    control: Control
    cluster: Cluster
    scope: Scope
    progress: Progress
    stop: threading.Event
    poll: float
    _chunks: dict[str, _Chunk] = field(default_factory=dict)
    _given_up: dict[str, str] = field(default_factory=dict)
    _unusable: list[str] = field(default_factory=list)

    def follow(self, batches: Iterable[str]) -> Mapping[str, str]:
        """Wait for the open chunks of batches, and see that their simulations are tried again.

        :param batches: ids of batches that this process drives.
        :return: why chunks were given up, by their ids; what they had left is pending again.
        :raises ModelError: when a worker refused to work at all.
        :raises Interrupted: when asked to stop; the jobs go on.
        """
        from airflow_ensemble.slurm.watch import ClusterWatch

        self._take(batches)
        watch = ClusterWatch(self.cluster.client, ceiling=max(SLURM_CEILING, self.poll))
        left, pause = -1, self.poll
        while self._chunks:
            for chunk in list(self._chunks.values()):
                if chunk.watched is None:
                    self._submit(chunk)
            self._look(watch)
            counts = self.control.index.counts(self.control.key, self.scope)
            self.progress.update(counts)
            is_new, left = counts.unfinished < left, counts.unfinished
            seconds_left = self.progress.pace.seconds_left(left) if is_new else None
            pause = pause_before_look(pause, seconds_left, self.poll)
            if self._chunks and self.stop.wait(pause):
                raise Interrupted(DETACHED)
        if self._unusable:
            raise ModelError(self._unusable[0])
        return self._given_up

    def _take(self, batches: Iterable[str]) -> None:
        for batch in batches:
            elements = {
                element.chunk: element for element in self.control.index.elements(batch=batch)
            }
            for info in self.control.index.chunks(batch):
                if info.state == "open":
                    chunk = _Chunk(info.id, info.unfinished)
                    self._chunks[info.id] = chunk
                    element = elements.get(info.id)
                    if element is not None and element.job.job_id is not None:
                        chunk.watched = self._watched(element)

    def _submit(self, chunk: _Chunk) -> None:
        from airflow_ensemble.slurm import batches
        from airflow_ensemble.slurm.errors import OutcomeUnknown, SlurmUnavailable, Unreachable

        try:
            if chunk.ended:
                batches.resubmit(self.control, self.cluster, chunk.id, stop=self.stop)
            else:
                info = self.control.index.chunk(chunk.id)
                batches.submit(self.control, self.cluster, [info], stop=self.stop)
            chunk.watched = self._watched(self.control.index.elements(chunk=chunk.id)[-1])
        except Interrupted as error:
            raise Interrupted(f"{DETACHED}; {error}") from error
        except (OutcomeUnknown, SlurmUnavailable, Unreachable) as error:
            log.warning("chunk %s: %s; trying again", chunk.id, error)
        except EnsembleError as error:
            self._give_up(chunk, str(error))

    def _look(self, watch: ClusterWatch) -> None:
        watched = [chunk.watched for chunk in self._chunks.values() if chunk.watched is not None]
        news = watch.look(watched, lambda _: self.control)
        self.progress.remark = describe(news.values())
        for one in watched:
            over = news[one.key].over
            if over is not None and one.chunk is not None:
                self._settle(self._chunks[one.chunk], over)

    def _watched(self, element: ElementInfo) -> Watched:
        from airflow_ensemble.slurm.watch import Watched

        return Watched.of(element, self.control)

    def _settle(self, chunk: _Chunk, over: Over) -> None:
        from airflow_ensemble.slurm.settling import settle
        from airflow_ensemble.slurm.states import End

        settled = settle(self.control, self.cluster, chunk.id, over)
        if settled.next == "done":
            del self._chunks[chunk.id]
        elif settled.next == "give-up":
            if over.end is End.UNUSABLE:
                self._unusable.append(over.detail)
            self._give_up(chunk, settled.message)
        elif self._is_fruitless(chunk, settled):
            self._give_up(chunk, f"{MAX_FRUITLESS} submissions finished nothing; {settled.message}")
        else:
            log.info("chunk %s: %s; submitting what is left", chunk.id, settled.message)
            chunk.watched, chunk.ended = None, True

    def _is_fruitless(self, chunk: _Chunk, settled: Settled) -> bool:
        left = settled.counts.unfinished
        chunk.fruitless = 0 if left < chunk.unfinished else chunk.fruitless + 1
        chunk.unfinished = left
        return chunk.fruitless >= MAX_FRUITLESS

    def _give_up(self, chunk: _Chunk, why: str) -> None:
        self.control.index.settle(chunk.id)
        self._given_up[chunk.id] = why
        del self._chunks[chunk.id]


def pause_before_look(last: float, seconds_left: float | None, longest: float) -> float:
    """Return how long to wait: until the rest is done, if all goes on at its pace.

    So nobody sleeps through the end of the last simulation. Where nothing happens, looks slacken.

    :param last: seconds of the last pause.
    :param seconds_left: that the rest will take; None when this look has found nothing new.
    :param longest: seconds.
    """
    pause = last * SLACKENING if seconds_left is None else seconds_left
    return min(max(pause, QUICKEST), longest)


def describe(news: Iterable[News]) -> str:
    """Return what Slurm says of elements, such as ``Slurm: 3 RUNNING, 5 PENDING (Priority)``."""
    words = Counter(_words(one.view) for one in news if one.view.word and one.over is None)
    return f"Slurm: {count_words(words)}" if words else ""


def _words(view: View) -> str:
    waits = view.phase in (Phase.PENDING, Phase.BLOCKED) and view.reason
    return f"{view.word} ({view.reason})" if waits else view.word
