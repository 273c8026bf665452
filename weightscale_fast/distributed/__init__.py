"""Several processes: which of them train one model together, and which weights each of them counts."""
