"""The pipeline: which flows a router, a link and a rule make, and what they do to a packet."""
