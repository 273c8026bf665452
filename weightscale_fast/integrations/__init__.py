"""The record in the loops of other frameworks, and its summaries in trackers; each module imports what it needs."""
