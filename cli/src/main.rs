//! The `remuda` program: the library's own server, around the application that it has built in.

use std::process::ExitCode;

use remuda::{AppError, AppFactory, Server, demo};

fn main() -> ExitCode {
    Server::choosing(application).version(env!("CARGO_PKG_VERSION")).run()
}

fn application(name: Option<&str>) -> Result<AppFactory, AppError> {
    match name {
        None => Ok(AppFactory::new(demo::build)),
        Some(name) => Err(AppError::msg(format!(
            "APP is {name:?}; allowed: none, which serves the built-in demo application"
        ))),
    }
}
