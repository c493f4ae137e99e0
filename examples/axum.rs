//! An axum `Router` with remuda's processes, settings and signals.
//!
//! Run it with `cargo run --release --example axum -- -w 2`. Then request `curl -i localhost:8000/`
//! or `curl localhost:8000/slow`, and stop it with Ctrl-C during the slow response, which still
//! arrives.

use std::process::ExitCode;
use std::time::Duration;

use axum::{Router, routing::get};

fn main() -> ExitCode {
    let slow = || async {
        remuda::sleep(Duration::from_secs(3)).await;
        "That took a while.\n"
    };
    remuda::run(Router::new().route("/", get(|| async { "Hello, World!" })).route("/slow", get(slow)))
}
