"""What is wrong with a record, and since when."""
