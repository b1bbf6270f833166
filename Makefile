# Only names for the scripts; each says more with --help.

.PHONY: setup demo test test-release test-xen soak bench experiments

setup: ; scripts/setup
demo:  ; scripts/demo
test:  ; scripts/test
test-release: ; scripts/test-release trixie
test-xen: ; scripts/test-xen
soak:  ; scripts/soak paper 20 5000
bench: ; scripts/bench
experiments: ; scripts/experiments
