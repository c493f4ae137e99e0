//! The server under test: remuda's command line around its built-in application.

use std::process::ExitCode;

fn main() -> ExitCode {
    remuda::Server::new(remuda::demo::build).run()
}
