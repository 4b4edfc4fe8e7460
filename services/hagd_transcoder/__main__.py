"""Run the service: `python -m hagd_transcoder --root DIR --listen 127.0.0.1:50051`."""

import sys

from hagd.rpc.process import run_process
from hagd_transcoder.bootstrap import bootstrap
from hagd_transcoder.config import IDENTITY

if __name__ == "__main__":
    sys.exit(run_process(IDENTITY, bootstrap))
