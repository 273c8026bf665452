"""From the device to the disk: the rows of sums, their way to the host, and the run folder."""
