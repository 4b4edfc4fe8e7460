"""What the program says about itself: logs for machines, progress for people. Both go to stderr."""
