//! remuda's built-in application: blocking handlers on mio, async ones on tokio.

use std::process::ExitCode;

use remuda::{Server, demo};

fn main() -> ExitCode {
    Server::new(demo::build).run()
}
