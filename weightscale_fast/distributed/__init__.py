"""What only several processes need: who they are, and which weights each of them counts."""
