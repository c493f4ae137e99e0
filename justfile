# What people type. Everything here is a plain command; `just --list` shows them.

# everything that is quick to find out: format, lints, and core without its Unix half
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p remuda-core --no-default-features --all-targets -- -D warnings

# all tests, or those that the arguments name: `just test d10`
test *args:
    cargo test --workspace {{ args }}

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
