"""The stages of a move; where a router is, asked of others."""
