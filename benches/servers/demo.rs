//! The application that remuda has built in: of blocking handlers on mio, of async ones on tokio.

use std::process::ExitCode;

use remuda::{Server, demo};

fn main() -> ExitCode {
    Server::new(demo::build).run()
}
