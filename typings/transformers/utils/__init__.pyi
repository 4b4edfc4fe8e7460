"""See the stub of the package above."""

from . import logging as logging
