"""A model's layers: which weights count, where they lie now, and a copy of them."""
