"""Run the service: `python -m hagd_verification --root DIR --listen 127.0.0.1:50054`."""

import sys

from hagd.rpc.process import run_process
from hagd_verification.bootstrap import bootstrap
from hagd_verification.config import IDENTITY

if __name__ == "__main__":
    sys.exit(run_process(IDENTITY, bootstrap))
