"""The POX component: the Rule Table, its sockets, the management service."""
