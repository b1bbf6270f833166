"""The few of POX's library modules that the component needs."""
