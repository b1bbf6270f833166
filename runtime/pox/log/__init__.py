"""Logging components; only `log.level` is here."""
