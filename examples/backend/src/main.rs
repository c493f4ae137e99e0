//! The server that the suite holds to the contract: its test application on this backend. `cargo run -p per-request --
//! -k per-request` serves it; `-k` lists the backends that remuda brings as well.

use std::process::ExitCode;

fn main() -> ExitCode {
    remuda_conformance::fixture::server().backend(per_request::PerRequest).run()
}
