"""TaskService: what became of a task, and a few wishes about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

import grpc

from pdf_processor.rpc.answering import Refused, answering
from pdf_processor.rpc.api_key import task_id_problem
from pdf_processor.rpc.bridge import Bridge, LongCalls
from pdf_processor.task_state import TaskStatus
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

FIELDS_ALIKE = frozenset(pb.TaskStatus.DESCRIPTOR.fields_by_name) - {"state"}
"""What a status and its message call by the same name, and mean alike."""


class Statuses(Protocol):
    """Reads the status of any task, of any replica."""

    async def read(self, task_id: str) -> TaskStatus:
        """Return the status of a task, `UNKNOWN` if nobody has taken it yet."""

    def watch(self, task_id: str) -> AsyncIterator[TaskStatus]:
        """Yield the status now, and after each change, up to a final one."""


class TaskServicer(cognicore_pb2_grpc.TaskServiceServicer):
    """Tells the status of tasks, cancels them, gives dead ones another life.

    A task of which nothing is known may wait in the list: it is `UNKNOWN`, not an error.
    """

    def __init__(
        self,
        statuses: Statuses,
        bridge: Bridge,
        long_calls: LongCalls,
        *,
        retry_dead: Callable[[str], Awaitable[bool]],
        cancel: Callable[[str], Awaitable[object]],
    ) -> None:
        """`retry_dead` says whether there was a dead task to retry."""
        self._statuses = statuses
        self._bridge = bridge
        self._long_calls = long_calls
        self._retry_dead = retry_dead
        self._cancel = cancel

    def GetTask(  # noqa: N802, the proto's name
        self, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> pb.TaskStatus:
        """Return the status of a task."""
        with answering("GetTask", context):
            _check(request)
            return self._bridge.wait(self._read(request.task_id), context)

    def WatchTask(  # noqa: N802, the proto's name
        self, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TaskStatus]:
        """Yield the status of a task at each change, up to a final state."""
        with answering("WatchTask", context), self._long_calls.one():
            _check(request)
            for status in self._bridge.iterate(self._statuses.watch(request.task_id), context):
                yield _message(status)

    def CancelTask(  # noqa: N802, the proto's name
        self, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> pb.TaskStatus:
        """Wish a task to end; return its status, in which the wish may not show yet.

        What has ended stays as it is; pushed again, it can be cancelled once it is taken.
        """
        with answering("CancelTask", context):
            _check(request)
            return self._bridge.wait(self._cancel_and_read(request.task_id), context)

    def RetryTask(  # noqa: N802, the proto's name
        self, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> pb.TaskStatus:
        """Put a dead task back into the queue."""
        with answering("RetryTask", context):
            _check(request)
            return self._bridge.wait(self._retry_and_read(request.task_id), context)

    async def _read(self, task_id: str) -> pb.TaskStatus:
        return _message(await self._statuses.read(task_id))

    async def _cancel_and_read(self, task_id: str) -> pb.TaskStatus:
        await self._cancel(task_id)
        return await self._read(task_id)

    async def _retry_and_read(self, task_id: str) -> pb.TaskStatus:
        if not await self._retry_dead(task_id):
            message = "There is no dead task of this task_id"
            raise Refused(grpc.StatusCode.NOT_FOUND, message)
        return await self._read(task_id)


def _check(request: pb.TaskRequest) -> None:
    problem = task_id_problem(request.task_id)
    if problem:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, problem)


def _message(status: TaskStatus) -> pb.TaskStatus:
    fields = {name: getattr(status, name) for name in FIELDS_ALIKE}
    return pb.TaskStatus(state=pb.TaskStatus.State.Value(status.state), **fields)
