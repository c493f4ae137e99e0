//! The `remuda` program: a server of the built-in application.

use std::process::ExitCode;

use remuda::app::AppFactory;
use remuda::{AppError, Server, demo};

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
