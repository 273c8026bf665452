"""The experiments of both papers, by name: their settings, their runs, and what the runs say about their claims."""
