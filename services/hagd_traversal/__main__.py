"""Run the service: `python -m hagd_traversal --root DIR --listen 127.0.0.1:50053`."""

import sys

from hagd.rpc.process import run_process
from hagd_traversal.bootstrap import bootstrap
from hagd_traversal.config import IDENTITY

if __name__ == "__main__":
    sys.exit(run_process(IDENTITY, bootstrap))
