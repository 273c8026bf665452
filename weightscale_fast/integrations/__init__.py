"""Recording in the training loops of other frameworks, and logging to trackers."""
