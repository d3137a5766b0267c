# Shortcuts; each is one script or one command that can be run without make.
.PHONY: dev test fmt lint bench docs site

dev:    ## a three-node cluster with samples
	scripts/dev.sh
test:   ## every test
	scripts/test.sh
fmt:
	cargo fmt --all
lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings
site:   ## the documentation as a site, with search, in target/site
	scripts/docs.py build
docs:   ## the generated references
	cargo run --quiet -- config reference > docs/reference/configuration.md
