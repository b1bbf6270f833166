"""The management entity: reads the network's description, asks controllers, moves routers."""
