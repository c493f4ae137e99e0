//! The server that the suite runs against this backend: its test application. Run it with `cargo
//! run -p per-request -- -k per-request`. `-k` accepts remuda's own backends as well.

use std::process::ExitCode;

fn main() -> ExitCode {
    remuda_conformance::fixture::server().backend(per_request::PerRequest).run()
}
