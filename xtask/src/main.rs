//! Checks of this repository that cargo and clippy do not have.
//!
//! - `cargo xtask tidy` prints the guide and runs all checks. The status is 1 if a check fails.
//! - `cargo xtask tidy --quick` skips the freshness of generated pages, which builds tests and
//!   starts servers.
//! - `cargo xtask guide FOLDER...` prints the same figures for other source folders, such as a
//!   crate in cargo's registry.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod guide;
mod source;
mod tidy;
mod tree;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use self::tree::Tree;

const USAGE: &str = "usage: cargo xtask tidy [--quick]\n       cargo xtask guide FOLDER...";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["tidy"] => tidy::run(root(), true),
        ["tidy", "--quick"] => tidy::run(root(), false),
        ["guide", ref folders @ ..] if !folders.is_empty() => {
            for folder in folders {
                println!("{folder}");
                print!("{}", guide::measure(&Tree::read(Path::new(folder))));
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}
