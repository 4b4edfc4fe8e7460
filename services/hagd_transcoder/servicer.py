"""TranscoderService on the wire: the methods that all stages share, and the stream of whole extractions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from hagd.api.extraction.v1 import extraction_pb2
from hagd.api.transcoder.v1 import transcoder_pb2_grpc
from hagd.errors import HagdError
from hagd.rpc.codec import run_to_proto
from hagd.rpc.run_service import RunMethods, RunService
from hagd.rpc.security.caller import caller
from hagd.rpc.status import to_status

Answers = asyncio.Queue[extraction_pb2.ExtractionUpdate | None]


class TranscoderServicer(RunMethods, transcoder_pb2_grpc.TranscoderServiceServicer):
    """Answers for the preparation of subjects and for dictionaries."""

    def __init__(self, service: RunService, stream_runs: int) -> None:
        """Answer from `service`; a stream may have `stream_runs` requests that are not settled.

        A request is settled when its run has finished, or it was refused, and the client has been told. Nothing more is
        read from the stream before that, so gRPC holds its sender back.
        """
        super().__init__(service)
        self._stream_runs = stream_runs

    async def StreamExtractions(
        self,
        request_iterator: AsyncIterator[extraction_pb2.SubmitRequest],
        context: Any,  # noqa: ARG002  # gRPC hands it to every method
    ) -> AsyncIterator[extraction_pb2.ExtractionUpdate]:
        """Answer each request when it is accepted or refused, and each run once more when it has finished."""
        # Of one place, so that a client that reads no answers is not served from memory without end.
        answers: Answers = asyncio.Queue(1)
        reader = asyncio.create_task(self._read(request_iterator, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
            await reader
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[extraction_pb2.SubmitRequest], answers: Answers) -> None:
        """Take requests to the end of the stream, then wait for the runs that are still followed."""
        free = asyncio.Semaphore(self._stream_runs)
        try:
            async with asyncio.TaskGroup() as followed:
                await free.acquire()
                async for request in requests:
                    task = followed.create_task(self._follow(request, answers))
                    task.add_done_callback(lambda _: free.release())
                    await free.acquire()
        finally:
            await answers.put(None)

    async def _follow(self, request: extraction_pb2.SubmitRequest, answers: Answers) -> None:
        try:
            run = await self.service.submit(request, caller().principal)
            await answers.put(extraction_pb2.ExtractionUpdate(request_id=request.request_id, run=run_to_proto(run)))
            if run.outcome is None:
                ended = run_to_proto(await self.service.ended(run.run_id))
                await answers.put(extraction_pb2.ExtractionUpdate(request_id=request.request_id, run=ended))
        except HagdError as error:
            refused = to_status(error)
            await answers.put(extraction_pb2.ExtractionUpdate(request_id=request.request_id, refused=refused))
