# Every target sets up what it needs; on a machine that has it, setting up changes nothing.
.PHONY: demo test check bench setup build

SETUP = scripts/setup

build:
	cargo build --workspace

setup:
	$(SETUP)

# The article's pipeline, for real: build, push, deploy.
demo: setup build
	scripts/demo

# The real thing: Docker engine, registry, git. Suites use containers, so tests within one run two at a time.
test: setup
	INSTA_UPDATE=no RUST_TEST_THREADS=2 cargo test --workspace --no-fail-fast

check:
	$(SETUP) --check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	scripts/deny

bench: setup
	cargo bench --workspace
