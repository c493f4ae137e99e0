//! Prints the probe's table for the backends that are built in, or for those that are named, and
//! fails if they differ: `cargo run --release -p remuda-conformance --bin probe [BACKEND...]`.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use remuda_conformance::{fixture, probe};

fn main() -> ExitCode {
    // This program is also the server.
    if env::var_os("FIXTURE_APPLICATION").is_some() {
        return fixture::server().run();
    }
    let named: Vec<String> = env::args().skip(1).collect();
    let backends = if named.is_empty() { probe::backends() } else { named };
    let report = env::current_exe().map(|program| probe::Report::of(&backends, &program));
    let result = report.and_then(|report| {
        let differences = report.differences();
        let mut out = io::stdout().lock();
        writeln!(out, "{report}")?;
        report.skipped().iter().chain(&differences).try_for_each(|line| writeln!(out, "{line}"))?;
        Ok(differences.is_empty())
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
