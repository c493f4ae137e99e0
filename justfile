# Frequently used commands. Each is a plain command that can be typed without just; `just --list` shows them.

# the quick checks: format, lints, core without its Unix half, and the rules of the repository
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p remuda-core --no-default-features --all-targets -- -D warnings
    cargo xtask tidy --quick

# the rules of the repository, generated pages included, and figures of language and style beside those of other projects
tidy:
    cargo xtask tidy

# lint sets of features: all of core's, and none, each alone and all pairs of cli's (cargo install cargo-hack)
features:
    cargo hack clippy --locked --feature-powerset --exclude-features default -p remuda-core -- -D warnings
    cargo hack clippy --locked --feature-powerset --depth 2 --exclude-features default -p remuda -- -D warnings

# run all tests, or those that the arguments name: `just test d10`
test *args:
    cargo test --workspace {{ args }}

# show what connections in every state see of a stop, for all backends or those named: `just probe mio`
probe *backends:
    cargo run --release -p remuda-conformance --bin probe {{ backends }}

# test every backend with nginx, HAProxy and ab, and compare it with nginx and hyper; the programs have to be installed
peers:
    cargo test -p remuda-conformance --features peers --test peers

# play schedules in virtual time: `just simulate --schedules 100000`, `just simulate --seed 4711 --trace`
simulate *args:
    cargo run --release -p remuda-conformance --bin simulate -- {{ args }}

# fuzz a target with nightly, for a minute or the given seconds: `just fuzz head 1800`
fuzz target seconds="60":
    fuzz/run {{ target }} {{ seconds }}

# serve the built-in application: `just run -w 4`
run *args:
    cargo run --release -- {{ args }}

# regenerate the generated parts of the book, then build it if mdbook is installed
book:
    BLESS=1 cargo test -p remuda --test book the_
    BLESS=1 cargo test -p remuda-conformance --test probe
    if command -v mdbook > /dev/null; then mdbook build book; else echo "mdbook is not installed: cargo install mdbook"; fi

# run every check that must pass before a change is shared
ci:
    .ci/run
