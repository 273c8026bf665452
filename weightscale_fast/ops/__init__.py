"""The pass: it reads a plan of addresses and writes the sums of every layer. Each backend implements it."""
