"""Run the service: `python -m hagd_verification --root DIR --listen 127.0.0.1:50054`."""

import sys

from hagd.rpc.wiring import run_service
from hagd_verification.bootstrap import bootstrap
from hagd_verification.config import NAME, read_config

if __name__ == "__main__":
    sys.exit(run_service(NAME, read_config(), bootstrap))
