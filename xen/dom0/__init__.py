"""What a Domain 0 needs: see `install-dom0`, `host.py`, `vif-xenflow` and docs/xen.md."""
