//! The server under test, with the backends that remuda brings.

use std::process::ExitCode;

fn main() -> ExitCode {
    remuda_conformance::fixture::server().run()
}
