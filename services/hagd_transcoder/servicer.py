"""TranscoderService on the wire: the methods that all stages share, and the stream of whole extractions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from hagd.api.extraction.v1 import extraction_pb2
from hagd.api.transcoder.v1 import transcoder_pb2_grpc
from hagd.errors import HagdError
from hagd.rpc.codec import run_to_proto
from hagd.rpc.run_service import RunMethods
from hagd.rpc.status import to_status

_MOST_FOLLOWED = 256
"""Runs of one stream that are followed at once; further requests wait, which holds back their sender."""


class TranscoderServicer(RunMethods, transcoder_pb2_grpc.TranscoderServiceServicer):
    """Answers for the preparation of subjects and for dictionaries."""

    async def StreamExtractions(
        self,
        request_iterator: AsyncIterator[extraction_pb2.SubmitRequest],
        context: Any,  # noqa: ARG002  # gRPC hands it to every method
    ) -> AsyncIterator[extraction_pb2.ExtractionUpdate]:
        """Answer each request when it is accepted or refused, and each run once more when it has finished."""
        answers: asyncio.Queue[extraction_pb2.ExtractionUpdate | None] = asyncio.Queue()
        free = asyncio.Semaphore(_MOST_FOLLOWED)
        reader = asyncio.create_task(self._read(request_iterator, answers, free))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
            await reader
        finally:
            reader.cancel()

    async def _read(
        self,
        requests: AsyncIterator[extraction_pb2.SubmitRequest],
        answers: asyncio.Queue[extraction_pb2.ExtractionUpdate | None],
        free: asyncio.Semaphore,
    ) -> None:
        """Take requests to the end of the stream, then wait for the runs that are still followed."""
        try:
            async with asyncio.TaskGroup() as followed:
                async for request in requests:
                    await free.acquire()
                    task = followed.create_task(self._follow(request, answers))
                    task.add_done_callback(lambda _: free.release())
        finally:
            answers.put_nowait(None)

    async def _follow(
        self,
        request: extraction_pb2.SubmitRequest,
        answers: asyncio.Queue[extraction_pb2.ExtractionUpdate | None],
    ) -> None:
        try:
            run = await self.service.submit(request)
            await answers.put(extraction_pb2.ExtractionUpdate(request_id=request.request_id, run=run_to_proto(run)))
            if run.outcome is None:
                ended = run_to_proto(await self.service.ended(run.run_id))
                await answers.put(extraction_pb2.ExtractionUpdate(request_id=request.request_id, run=ended))
        except HagdError as error:
            refused = to_status(error)
            await answers.put(extraction_pb2.ExtractionUpdate(request_id=request.request_id, refused=refused))
