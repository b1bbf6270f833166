"""Builds the virtual router's image, and what one router of the network needs of its own."""
