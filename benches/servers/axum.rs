//! An axum router served by remuda: the counterpart of `bench-axum-hyper`.

use std::process::ExitCode;

use axum::Router;
use axum::routing::get;

fn main() -> ExitCode {
    remuda::run(Router::new().route("/", get(|| async { "Hello, World!" })))
}
