"""The pass: from a plan of addresses to the sums of every layer, on the backend that fits the device."""
