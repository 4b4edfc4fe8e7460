"""Run the service: `python -m hagd_coarsening --root DIR --listen 127.0.0.1:50052`."""

import sys

from hagd.rpc.wiring import run_service
from hagd_coarsening.bootstrap import bootstrap
from hagd_coarsening.config import NAME, read_config

if __name__ == "__main__":
    sys.exit(run_service(NAME, read_config(), bootstrap))
