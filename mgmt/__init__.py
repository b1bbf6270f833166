"""The management entity: reads the network's description, asks controllers, moves routers."""

RELEASE = "0.1.0"
