"""What is needed only with several processes: who they are, and which weights each of them counts."""
