"""Events: what is asked for, what has happened, and the log that keeps both."""
