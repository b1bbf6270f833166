"""What a virtual network is: frozen values, and the requests that are made of it."""
