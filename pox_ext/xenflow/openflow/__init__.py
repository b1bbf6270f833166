"""OpenFlow as values and octets: flows, messages, packets."""
