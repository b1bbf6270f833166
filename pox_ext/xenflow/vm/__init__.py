"""A router's VM while it is suspended: what is held for it, and how that is known."""
