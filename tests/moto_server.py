"""An S3 server in this process, in front of which a test may put trouble."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from servers.found import S3Address

Application = Callable[[dict[str, Any], Any], Any]
"""A WSGI application."""


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Say nothing of every request."""


@contextmanager
def running_moto(
    trouble: Callable[[Application], Application] = lambda application: application,
) -> Generator[S3Address]:
    """Give a server whose application `trouble` may wrap."""
    application = trouble(DomainDispatcherApplication(create_backend_app))
    # One request at a time, because it looks at a condition and writes in two steps.
    server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield S3Address(f"http://127.0.0.1:{server.port}", "key", "secret")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
