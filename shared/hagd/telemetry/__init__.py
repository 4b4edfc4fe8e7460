"""What the program says about itself: spans, metrics and logs for machines, progress for people."""
