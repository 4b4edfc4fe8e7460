"""Run the service: `python -m hagd_transcoder --root DIR --listen 127.0.0.1:50051`."""

import sys

from hagd.rpc.wiring import run_service
from hagd_transcoder.bootstrap import bootstrap
from hagd_transcoder.config import NAME, read_config

if __name__ == "__main__":
    sys.exit(run_service(NAME, read_config(), bootstrap))
