# What people type. Everything here is a plain command; `just --list` shows them.

# everything that is quick to find out: format, lints, and core without its Unix half
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p remuda-core --no-default-features --all-targets -- -D warnings

# all tests, or those that the arguments name: `just test d10`
test *args:
    cargo test --workspace {{ args }}

# what connections in every state see of a stop, for all backends or those named: `just probe mio`
probe *backends:
    cargo run --release -p remuda-conformance --bin probe {{ backends }}

# nginx, HAProxy and ab against every backend, and nginx and hyper beside it; the programs have to be installed
peers:
    cargo test -p remuda-conformance --features peers --test peers

# play schedules in virtual time: `just simulate --schedules 100000`, `just simulate --seed 4711 --trace`
simulate *args:
    cargo run --release -p remuda-conformance --bin simulate -- {{ args }}

# fuzz a target with nightly, for a minute or so many seconds: `just fuzz head 1800`
fuzz target seconds="60":
    fuzz/run {{ target }} {{ seconds }}

# serve the built-in application: `just run -w 4`
run *args:
    cargo run --release -- {{ args }}

# write what is generated in the book anew, then build it if mdbook is there
book:
    BLESS=1 cargo test -p remuda --test book the_settings_page
    BLESS=1 cargo test -p remuda-conformance --test probe
    if command -v mdbook > /dev/null; then mdbook build book; else echo "mdbook is not installed: cargo install mdbook"; fi

# all that has to hold before a change is shared
ci:
    .ci/run
