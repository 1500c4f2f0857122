"""The pipeline of one rank: readers -> buckets -> model -> finishers, with everything it holds bounded.

    take -> read -> focus -> [bucket] -> refine -> align -> paste -> judge
            -> (next candidate | next region | verify -> write -> outcome)

Items of equal bucket run together at one fixed batch size, so an item's pixels do not depend on its company.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from refine_ops import storage
from refine_ops.chain import Refinement, finish
from refine_ops.errors import ItemError, JobError
from refine_ops.job import outcome
from refine_ops.job.inputs import read_inputs
from refine_ops.job.ledger import LedgerWriter
from refine_ops.job.outcome import Attempt
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.rank.buckets import Buckets
from refine_ops.job.rank.byte_budget import ByteBudget
from refine_ops.job.rank.in_flight import Flight
from refine_ops.job.rank.publish import Publisher
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Counts, Journal, Spec
from refine_ops.judge.judge import Judge
from refine_ops.opened import memory_needed, open_item
from refine_ops.proof.verify import VerifyError
from refine_ops.records import Outcome, Patch, Refiner

logger = logging.getLogger(__name__)

_LINGER_S = 0.02
"""How long an idle model waits for a bucket to fill before it runs the oldest one padded."""
_MIN_IN_FLIGHT = 32


class Pipeline:
    """Runs items through one refiner until `take` returns None or `stop` is called.

    Args:
        take: The next assignment, or None where all are taken; called by several threads.
        device_works: Asked after a failed batch; False (a sticky CUDA error) ends the process, not the item.
        judge: Rules over every region, in the threads behind the model; None: everything is published.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        folder: RunFolder,
        plan: PlanReader,
        take: Callable[[], Assignment | None],
        refiner: Refiner,
        device_works: Callable[[], bool],
        ledger: LedgerWriter,
        journal: Journal,
        rank: int,
        judge: Judge | None = None,
    ) -> None:
        self.spec, self.counts = spec, Counts()
        self.stopping = threading.Event()
        self.model_call_started: float | None = None
        self._folder, self._plan, self._take = folder, plan, take
        self._refiner, self._device_works, self._judge = refiner, device_works, judge
        self._ledger, self._journal, self._rank = ledger, journal, rank
        self._started = time.monotonic()
        self._budget = ByteBudget(spec.worker.queue_bytes)
        in_flight = 1 if spec.solo else max(_MIN_IN_FLIGHT, 3 * (spec.refine.model.batch_size or 1))
        self._slots = threading.Semaphore(in_flight)
        self._plan_lock = threading.Lock()
        self._changed = threading.Condition()
        self._buckets = Buckets(refiner.batch_size)
        self._publisher = Publisher(folder, spec.keep_patches, spec.held_output)
        self._in_flight: dict[int, Flight] = {}
        self._readers_left = 1 if spec.solo else spec.worker.read_threads
        self._finishing: queue.SimpleQueue[tuple[Flight, Patch] | None] = queue.SimpleQueue()
        self._failure: JobError | None = None

    def run(self) -> None:
        """Refine everything; the caller's thread runs the model.

        Raises:
            JobError: nothing more can be written; what is in flight is dropped and will be redone.
        """
        readers = [threading.Thread(target=self._read_loop, daemon=True) for _ in range(self._readers_left)]
        finishers = [
            threading.Thread(target=self._finish_loop, daemon=True) for _ in range(self.spec.worker.write_threads)
        ]
        for thread in (*readers, *finishers):
            thread.start()
        while (batch := self._next_batch()) is not None:
            for flight, patch in zip(batch, self._refine(batch), strict=True):
                if patch is not None:
                    self._finishing.put((flight, patch))
        for _ in finishers:
            self._finishing.put(None)
        if self._failure:
            self.drop_in_flight()
            raise self._failure

    def stop(self) -> None:
        """Take nothing new; what is in flight is finished."""
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()

    def fail(self, error: JobError) -> None:
        """Stop at once: the run folder cannot be written."""
        self._failure = self._failure or error
        self.stop()

    def drop_in_flight(self) -> None:
        """Let go of what is held, so that it is redone and not suspected."""
        for position in list(self._in_flight):
            self._journal.let_go(position)

    # -- ahead of the model

    def _read_loop(self) -> None:
        try:
            while not self.stopping.is_set():
                # A place first, then an item: what is taken here, no other rank takes.
                self._slots.acquire()
                taken = None if self.stopping.is_set() else self._take()
                if taken is None:
                    self._slots.release()
                    return
                self._admit(taken)
        except JobError as e:
            self.fail(e)
        finally:
            with self._changed:
                self._readers_left -= 1
                self._changed.notify_all()

    def _admit(self, taken: Assignment) -> None:
        # Before anything is read: whatever kills this process from here on has a suspect.
        self._journal.take(taken.position)
        # One Parquet reader for all threads, and it is not safe to share.
        with self._plan_lock:
            item, request = self._plan.item(taken.position)
        attempt = Attempt(
            item, request, self.spec.fingerprint, self.spec.start, self._rank, number=taken.earlier_attempts + 1
        )
        flight = Flight(taken.position, attempt)
        with self._changed:
            self._in_flight[taken.position] = flight
        self._at_item_boundary(flight, self._open)

    def _open(self, flight: Flight) -> None:
        limits = self.spec.refine.limits
        self._folder.refuse_own_output(flight.item.image)
        with flight.attempt.timed("read"):
            inputs = read_inputs(flight.item, self.spec.access, limits.max_bytes, flight.attempt.inputs)
        # From the headers, before anything is decoded: what is asked for late has been allocated already.
        needed = memory_needed(flight.item, inputs, limits)
        self._budget.acquire(needed)
        flight.held_bytes = needed
        with flight.attempt.timed("decode"):
            opened = open_item(flight.item, inputs, self.spec.refine)
            flight.refinement = Refinement(flight.item, opened, self.spec.refine, self._refiner, self._judge)
        self._await_model(flight)

    def _await_model(self, flight: Flight) -> None:
        assert flight.refinement is not None
        with flight.attempt.timed("focus"):
            conditioning = flight.refinement.conditioning()
            flight.prepared = self._refiner.prepare(conditioning)
        flight.waiting_since = time.monotonic()
        with self._changed:
            self._buckets.add(flight)
            self._changed.notify_all()

    # -- the model

    def _next_batch(self) -> list[Flight] | None:
        """A full bucket, or after a short wait the one that has waited longest; None when nothing can come any more."""
        with self._changed:
            while self._failure is None:
                # Full ones first, or many half-filled buckets would run padded while a full one waits.
                if batch := self._buckets.pop_full():
                    return batch
                if not self._in_flight and not self._readers_left:
                    return None
                if not self._changed.wait(_LINGER_S) and (batch := self._buckets.pop_oldest()):
                    return batch
            return None

    def _refine(self, batch: list[Flight]) -> list[Patch | None]:
        """Run the model; where a batch fails, one by one, so that only the items that fail alone are dead."""
        started = self.model_call_started = time.monotonic()
        try:
            patches: list[Patch | None] = list(self._refiner.refine_prepared([flight.prepared for flight in batch]))
        except Exception as e:  # an item boundary: whatever it is, it is recorded or it ends the rank
            # After a sticky CUDA error every call fails: going on would dead-letter the rest of the manifest.
            if not self._device_works():
                raise
            if len(batch) > 1:
                logger.warning("a batch of %d failed (%s); its items run alone", len(batch), e)
                return [patch for flight in batch for patch in self._refine([flight])]
            if self._judge is not None and isinstance(e, ItemError) and e.reason == "model.not_finite":
                return [_not_finite(batch[0])]  # a worse region than any, and no reason to give up the others
            logger.exception("item %s: the model failed", batch[0].item.item_id)
            self._end_dead(
                batch[0], e if isinstance(e, ItemError) else ItemError("model.failed", f"{type(e).__name__}: {e}")
            )
            return [None]
        finally:
            self.model_call_started = None
        elapsed = time.monotonic() - started
        self.counts.model_s += elapsed
        self.counts.regions += len(batch)
        for flight in batch:
            flight.attempt.add_time("refine", elapsed / len(batch))
        return patches

    # -- behind the model

    def _finish_loop(self) -> None:
        while (entry := self._finishing.get()) is not None:
            flight, patch = entry
            try:
                self._at_item_boundary(flight, partial(self._paste, patch=patch))
            except JobError as e:
                self.fail(e)

    def _paste(self, flight: Flight, patch: Patch) -> None:
        """What comes after the model: align, paste and judge, then the next candidate or region, or verify, publish
        and record."""
        refinement = flight.refinement
        assert refinement is not None
        region_id, tiles = refinement.turn
        best = refinement.absorb(patch, flight.attempt.timed)
        if best and self._publisher.needs_patches and tiles == 1:
            flight.patches[region_id] = patch
        if not refinement.complete:
            self._await_model(flight)
            return
        judged = finish(refinement, flight.attempt.timed)
        with flight.attempt.timed("write"):
            result = self._publisher.publish(flight.attempt, judged, flight.patches, refinement.source)
        self._record(flight, result)

    def _at_item_boundary(self, flight: Flight, step: Callable[[Flight], None]) -> None:
        """Run a step; whatever is wrong with the item is recorded, and the run goes on."""
        try:
            step(flight)
        except JobError:
            raise
        except ItemError as e:
            self._end_dead(flight, e)
        except Exception as e:  # the item boundary: recorded, and the run goes on
            logger.exception("item %s: unexpected failure", flight.item.item_id)
            self._end_dead(
                flight, ItemError("internal.error", f"{type(e).__name__}: {e}; this is a bug, please report it")
            )

    def _end_dead(self, flight: Flight, error: ItemError) -> None:
        logger.warning("item %r is dead: %s: %r", flight.item.item_id, error.reason, str(error))
        if isinstance(error, VerifyError) and error.picture:
            storage.write(self._folder.broken_promise_of(flight.item.output), error.picture)
        self._record(flight, outcome.dead(flight.attempt, error))

    def _record(self, flight: Flight, result: Outcome) -> None:
        """Hand the outcome to the ledger, then let go of the item: the last one ends `run`, whose caller flushes."""
        self._ledger.add(result)
        if result.status == "dead":
            self.counts.dead += 1
        else:
            self.counts.done += result.status == "done"
            self.counts.held += result.status == "held"
            self.counts.first_image_s = self.counts.first_image_s or time.monotonic() - self._started
        self._budget.release(flight.land())
        # The outcome may still wait for its part to be written: a death now redoes the item, but does not suspect it.
        self._journal.let_go(flight.position)
        self._slots.release()
        # Last of all: `_next_batch` takes an empty `_in_flight` for the end, and `run` must not return before this.
        with self._changed:
            self._in_flight.pop(flight.position, None)
            self._changed.notify_all()


def _not_finite(flight: Flight) -> Patch:
    assert flight.refinement is not None
    height, width = flight.refinement.view_shape
    pixels = np.full((height, width, 3), np.nan, np.float32)
    return Patch(pixels, np.ones((height, width), np.bool_), batch_size=1)
