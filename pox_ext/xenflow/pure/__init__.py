"""What XenFlow decides, as values and functions: standard library only, no I/O, no POX."""
