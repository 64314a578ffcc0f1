"""Frames that come at their own pace: a queue, a thread that works, results in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adfast._native import _core
from adfast.errors import AdfastError, ArgumentError, StreamClosed
from adfast.result import Box, Result

if TYPE_CHECKING:
    from adfast.engine import Engine


@dataclass(frozen=True)
class StreamResult:
    """What became of one frame of a stream.

    Attributes:
        ticket: the frame's number, as `submit` returned it. Results come in this order.
        id: the caller's number of the frame.
        timestamp: the caller's, in nanoseconds.
        dropped_before: frames between the result before and this one that gave none.
        result: as of `Engine.predict`; its map is None if the stream was opened without maps, and
            so is its network_map. None for a frame that failed.
        error: why it failed, or "".
        queue_ms: milliseconds from submitting to the beginning of work.
        total_ms: and to its end.
    """

    ticket: int
    id: int
    timestamp: int
    dropped_before: int
    result: Result | None
    error: str
    queue_ms: float
    total_ms: float


@dataclass(frozen=True)
class Frame:
    """An image on its way to a stream, with what comes back beside its result.

    Attributes:
        image: as for `Engine.predict`.
        id: None: the stream counts.
        timestamp: nanoseconds; None: the time of submitting.
        pixel_format: as for `Engine.predict`.
    """

    image: Any
    id: int | None = None
    timestamp: int | None = None
    pixel_format: str = ""


class Stream:
    """A stream of frames through an engine; use `Engine.stream`.

    Everything may be called from any thread, and from several at once. As a context manager it
    closes at the end, working off what waits unless the block is left by an exception.
    """

    def __init__(
        self,
        engine: Engine,
        core: _core.Stream,
        callback: Callable[[StreamResult], None] | None,
    ) -> None:
        """Use `Engine.stream`."""
        self._engine, self._core = engine, core
        self._number = 0
        self._failure: BaseException | None = None
        self._caller: threading.Thread | None = None
        if callback is not None:
            self._caller = threading.Thread(
                target=self._call, args=(callback,), name="adfast-stream", daemon=True
            )
            self._caller.start()

    def submit(
        self,
        image: Any,
        *,
        id: int | None = None,
        timestamp: int | None = None,
        pixel_format: str = "",
        roi: tuple[int, int, int, int] | None = None,
        ignore: Any = None,
    ) -> int:
        """Queue a frame; it is copied, so that a camera's buffer may be given back at once.

        Args:
            image: as for `Engine.predict`, in host memory.
            id: any number from 0 to 2**64 - 1, given back with the result; None: the stream counts.
            timestamp: nanoseconds, likewise; None: the time now.
            pixel_format: as for `Engine.predict`.
            roi: as for `Engine.predict`.
            ignore: as for `Engine.predict`.

        Returns:
            The frame's ticket: 0, 1, 2, ... A ticket without a result was dropped.

        Raises:
            FrameError: what `Engine.predict` would refuse.
            StreamFull: the queue is full and the policy is "error".
            StreamClosed: the stream is closed, or was while the frame waited for room.
        """
        from adfast.engine import _as_array, _as_mask

        if id is None:
            id, self._number = self._number, self._number + 1
        return self._core.submit(
            _as_array(image, pixel_format),
            id,
            time.time_ns() if timestamp is None else timestamp,
            pixel_format,
            roi,
            _as_mask(ignore),
        )

    def poll(self, timeout: float | None = None) -> StreamResult | None:
        """Take the next result.

        Args:
            timeout: seconds to wait for it; None: as long as it takes.

        Returns:
            The result, or None when there was none in time.

        Raises:
            StreamClosed: the stream is closed and all its results are taken.
            ArgumentError: the stream has a callback, which gets them.
        """
        if self._caller is not None:
            raise ArgumentError("[poll] results of this stream go to its callback")
        return self._take(-1 if timeout is None else max(0.0, timeout))

    def __iter__(self) -> Iterator[StreamResult]:
        """Yield results until the stream is closed and all are taken."""
        while True:
            try:
                result = self.poll()
            except StreamClosed:
                return
            if result is not None:
                yield result

    def run(self, source: Iterable[Any]) -> Iterator[StreamResult]:
        """Submit everything of a source, from a thread of its own, and yield the results in order.

        Args:
            source: images, or `Frame`s, as those of `adfast.cameras`. The stream is closed at its
                end, and when the caller stops to iterate.

        Raises:
            Whatever the source or submitting raised, after the results of the frames before.
        """

        def feed() -> None:
            try:
                for item in source:
                    frame = item if isinstance(item, Frame) else Frame(item)
                    self.submit(
                        frame.image,
                        id=frame.id,
                        timestamp=frame.timestamp,
                        pixel_format=frame.pixel_format,
                    )
            except StreamClosed:
                pass
            except BaseException as error:
                self._failure = error
            finally:
                self._core.close(True)

        feeder = threading.Thread(target=feed, name="adfast-feed", daemon=True)
        feeder.start()
        try:
            yield from self
        finally:
            self.close(drain=False)
            # A source that waits for its next frame cannot be woken; its thread ends with that.
            feeder.join(timeout=1)
        if self._failure is not None:
            raise self._failure

    def close(self, drain: bool = True) -> None:
        """Take no more frames; return when the last one is worked off. Results can still be polled.

        Args:
            drain: work off the frames that wait; False: discard them.
        """
        self._core.close(drain)
        if self._caller is not None and self._caller is not threading.current_thread():
            self._caller.join()

    @property
    def counters(self) -> dict[str, Any]:
        """What became of the frames.

        Each one is in exactly one of "completed", "failed", "dropped_oldest", "dropped_newest",
        "rejected", "expired", "discarded", "queued" and "working", and "submitted" is their sum;
        "waiting" are results to be polled. "latency_ms" and "queue_ms" hold "mean", "p50", "p90",
        "p99", "p99.9" and "max" of the time to the result and to the beginning of work; quantiles
        are within a tenth.
        """
        return self._core.counters()

    def __enter__(self) -> Stream:
        """Return the stream."""
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Close it."""
        self.close(drain=kind is None)

    def _take(self, seconds: float) -> StreamResult | None:
        raw = self._core.poll(seconds)
        if raw is None:
            return None
        result = None
        if not raw["error"]:
            result = Result(
                score=raw["score"],
                map=raw["map"],
                network_map=None,
                inspected=Box(*raw["inspected"]),
                threshold=self._engine.threshold,
                timings=raw["timings"],
            )
        names = ("ticket", "id", "timestamp", "dropped_before", "error", "queue_ms", "total_ms")
        return StreamResult(result=result, **{name: raw[name] for name in names})

    def _call(self, callback: Callable[[StreamResult], None]) -> None:
        while True:
            try:
                result = self._take(-1)
            except AdfastError:
                return
            try:
                callback(result)
            except Exception as error:
                # Reported as Python reports it of any thread; the stream goes on.
                thread = threading.current_thread()
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, error.__traceback__, thread))
                )


def open_stream(
    engine: Engine,
    core: _core.Engine,
    capacity: int,
    policy: str,
    deadline_ms: float | None,
    with_map: bool,
    callback: Callable[[StreamResult], None] | None,
) -> Stream:
    """See `Engine.stream`."""
    raw = _core.Stream(core, capacity, policy, deadline_ms or 0.0, with_map)
    return Stream(engine, raw, callback)
