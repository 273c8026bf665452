"""From the device to the disk: rows of sums, their copy to the host, and the run folder."""
