"""XenFlow on genuine Xen: what Domain 0 needs, and the virtual router's image (docs/xen.md)."""
