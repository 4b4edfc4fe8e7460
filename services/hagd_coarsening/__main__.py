"""Run the service: `python -m hagd_coarsening --root DIR --listen 127.0.0.1:50052`."""

import sys

from hagd.rpc.process import run_process
from hagd_coarsening.bootstrap import bootstrap
from hagd_coarsening.config import IDENTITY

if __name__ == "__main__":
    sys.exit(run_process(IDENTITY, bootstrap))
