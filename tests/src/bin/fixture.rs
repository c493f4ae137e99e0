//! The server under test: remuda's command line around its built-in application.
//!
//! `FIXTURE_APPLICATION` chooses between its two kinds, `blocking` and `async`; without it the backend does.

use std::env;
use std::process::ExitCode;

use remuda::{AppError, Server, demo};

fn main() -> ExitCode {
    let build = match env::var("FIXTURE_APPLICATION").as_deref() {
        Ok("blocking") => demo::blocking,
        Ok("async") => demo::asynchronous,
        Err(env::VarError::NotPresent) => demo::build,
        other => {
            let error = AppError::msg(format!("FIXTURE_APPLICATION is {other:?}; allowed: blocking, async"));
            return Server::new(move |_| Err(AppError::msg(error.to_string()))).run();
        }
    };
    Server::new(build).run()
}
