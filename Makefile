# The words that people and CI both use; `make` alone lists them.
#
# Needed: rustup with Rust 1.95 or newer, a C compiler, and bash. `demo` and `test` install RabbitMQ, Docker's daemon,
# PostgreSQL, MariaDB and small tools from the distribution where they are missing (as root, or with sudo), and run private
# servers.

CARGO_DENY = 0.20.2
CARGO_AUDITABLE = 0.7.7
CARGO_CYCLONEDX = 0.5.9
CARGO_FUZZ = 0.13.2
CARGO_MUTANTS = 27.1.0
FUZZ_TARGETS = message headers settings answers limiter
# What `demo` compiles, `check` and `test` find compiled: the program that ships, and not another one for this machine alone.
STATIC = deploy/image/cargo
# What runs without a server. A process for each test where nextest is installed.
UNIT_TESTS = --locked --workspace --lib --test layout

.DEFAULT_GOAL = help
.PHONY: help demo test check simulation model fuzz mutants screenshots soak chaos compat bench lint audit book build deb release reproducible release-tools cargo-deny
# One after the other, also under `make -j`: each of them takes all cores, and cargo's lock.
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1 - \2/p' Makefile

# Not the release build: `test` finds all of it compiled, and the other way round. The demo waits for servers, not for code.
demo: ## see it work, on a RabbitMQ and a Docker daemon that live as long as the demo; KEEP=1 to look at its console
	deploy/local/install rabbitmq-server docker.io musl-tools
	$(STATIC) build --locked --bins --example demo
	deploy/local/servers run broker docker -- $(STATIC) run --locked --quiet --example demo

# Under nextest each test would import the image for its containers anew, and win nothing: two run at a time either way.
# `--tests` leaves out the example soak, which only `soak` runs; the integration tests run the example publish.
test: ## all tests, on private servers; TESTS="locks:: store::" for some that need them
	deploy/local/install
	$(STATIC) build --locked --bins --example publish
	$(STATIC) test --locked --workspace --tests --no-run
	deploy/local/servers run -- $(STATIC) test --locked $(if $(TESTS),--test integration -- $(TESTS),--workspace --tests)

screenshots: ## every page of the console, light, dark and narrow, as target/screenshots/*.png
	deploy/local/install rabbitmq-server docker.io musl-tools chromium chromium-driver
	$(STATIC) build --locked --bins
	deploy/local/servers run broker docker -- $(STATIC) test --locked --test integration -- --ignored screenshots::

# For between two edits: clippy on what the tests, benches and examples do is left to `lint`, which takes twice as long.
check: ## format, clippy, and the tests that need no server
	deploy/local/install musl-tools
	cargo fmt --all --check
	$(STATIC) clippy --locked --workspace --lib --bins -- -D warnings
	if cargo nextest --version >/dev/null 2>&1; then $(STATIC) nextest run $(UNIT_TESTS); else $(STATIC) test $(UNIT_TESTS); fi

# `make test` runs a tenth of it.
simulation: ## 10,000 histories of failures in memory, and guards broken on purpose; SIMULATION_SEEDS=100000 for more
	deploy/local/install musl-tools
	SIMULATION_SEEDS=$(or $(SIMULATION_SEEDS),10000) \
		$(STATIC) test --locked --test simulation -- --nocapture --test-threads 1

model: ## every interleaving of the protocol, for one thread
	deploy/local/install musl-tools
	$(STATIC) test --locked --test model -- --nocapture

# The short form, without a nightly compiler, is in the unit tests: bytes and texts by chance, some hundred a run.
fuzz: ## messages, headers, settings, servers' answers, the limiter by chance, MINUTES=10 each; needs a nightly compiler
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@$(CARGO_FUZZ)
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/found/$$target; \
		cargo +nightly fuzz run $$target fuzz/target/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$$(($(or $(MINUTES),10) * 60)) || exit 1; \
	done

# Which files, and why these: .cargo/mutants.toml. The list of what was missed is in target/mutants.out.
mutants: ## what decides without a server, changed on purpose in one place after the other, which unit tests must notice
	cargo mutants --version >/dev/null 2>&1 || cargo install --locked cargo-mutants@$(CARGO_MUTANTS)
	cargo mutants --output target

# SOAK_EVENTS=2000 SOAK_SECONDS=80 SOAK_CYCLES=500 SOAK_LOCKED_SECONDS=30 for less.
soak: ## 20,000 events with a fault every second, 20,000 reopenings, a row that stays locked for five minutes
	deploy/local/install rabbitmq-server docker.io postgresql mariadb-server
	cargo build --locked --release --bins --example soak
	deploy/local/servers run -- cargo run --locked --release --quiet --example soak

# As root: it makes networks. CHAOS_SEED=... runs the plan of faults again that a run has printed, SUITE=sid with that
# release's servers.
chaos: ## three brokers, a database and its standby, two hosts, and a fault every second for MINUTES=3
	deploy/local/install $(if $(SUITE),mmdebstrap,rabbitmq-server docker.io postgresql iproute2 libfaketime)
	cargo build --locked --bins --example soak
	CHAOS_MINUTES=$(or $(MINUTES),3) \
		$(if $(SUITE),deploy/local/debian $(SUITE) target/debug/examples/soak,cargo run --locked --quiet --example soak --) \
		redundant

# As root, and from Debian's packages alone. The tree of a release is made the first time.
compat: ## the tests with the servers of another Debian release, SUITE=trixie or sid; TESTS="doctor:: locks::" for some
	deploy/local/install mmdebstrap musl-tools
	deploy/local/compat $(or $(SUITE),trixie) $(TESTS)

bench: ## figures, beside what they compare with; PARTS="events idle" for some
	deploy/local/install
	cargo bench --locked --bench bench --no-run
	deploy/local/servers run -- cargo bench --locked --bench bench -- $(PARTS)

lint: cargo-deny ## format, clippy, layout, documentation, dependencies, workflows, compose files, the book
	deploy/local/install musl-tools python3-pip
	deploy/local/check
	cargo fmt --all --check
	$(STATIC) clippy --locked --workspace --all-targets -- -D warnings
	$(STATIC) test --locked --quiet --test layout
	RUSTDOCFLAGS='-D warnings' $(STATIC) doc --locked --workspace --no-deps --document-private-items
	cargo deny --locked check bans licenses sources

audit: cargo-deny ## known vulnerabilities of dependencies; fetches the advisory database
	cargo deny --locked check advisories

book: ## the documents as a book, target/book/html
	deploy/local/install python3-pip
	deploy/book/build

build: ## the release binary, target/release/volume-reaper
	cargo build --locked --release --bins

deb: ## .deb and .rpm for this architecture, target/dist
	deploy/local/install musl-tools python3-pip
	deploy/package/build "$$(BUILD_REVISION=$$(git rev-parse HEAD) deploy/image/program)" target/dist

release: release-tools ## all files of a release for this architecture, target/dist
	deploy/release/build target/dist

reproducible: release-tools ## all files of a release made twice, in two folders, and compared
	deploy/release/twice

release-tools:
	deploy/local/install musl-tools python3-pip ca-certificates
	@cargo auditable --version >/dev/null 2>&1 || cargo install --locked cargo-auditable@$(CARGO_AUDITABLE)
	@cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx@$(CARGO_CYCLONEDX)

cargo-deny:
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny@$(CARGO_DENY)
