"""Where the network comes from, and what a controller keeps of it."""
