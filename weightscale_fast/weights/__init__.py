"""A model's layers: which weights are layers, where they are now, and a copy of them."""
