# Only names for the scripts; each says more with --help.

.PHONY: setup demo test soak bench

setup: ; scripts/setup
demo:  ; scripts/demo
test:  ; scripts/test
soak:  ; scripts/soak paper 20 5000
bench: ; scripts/bench
