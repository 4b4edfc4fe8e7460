"""The command line. Data goes to stdout, talk to stderr; every read has `--json`."""
