//! Plays schedules of the deterministic simulation: `simulate --schedules 100000`, or one again, line by line:
//! `simulate --seed 4711 --trace`.
//!
//! `--seed` is the first seed, 0 by default; `--schedules` how many from there on, 1 by default. It ends with 1 at the
//! first rule that is broken, and says how to play that schedule again.

use std::process::ExitCode;
use std::time::Instant;

use remuda_conformance::simulation;

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what it is for")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seed, mut schedules, mut traced) = (0, 1, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        let known = match argument.as_str() {
            "--seed" => number().map(|n| seed = n),
            "--schedules" => number().map(|n| schedules = n),
            "--trace" => {
                traced = true;
                Some(())
            }
            _ => None,
        };
        if known.is_none() {
            eprintln!("usage: simulate [--seed N] [--schedules N] [--trace], not {argument}");
            return ExitCode::from(2);
        }
    }
    let (began, mut steps, mut answered) = (Instant::now(), 0, 0);
    for seed in seed..seed.saturating_add(schedules) {
        let result = if traced {
            let (lines, result) = simulation::trace(seed);
            lines.iter().for_each(|line| println!("{line}"));
            result
        } else {
            simulation::run(seed)
        };
        match result {
            Ok(summary) => {
                steps += summary.steps;
                answered += summary.answered;
            }
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{schedules} schedules, {steps} steps, {answered} requests answered in {took:.1} s: {:.0} schedules a minute",
        schedules as f64 / took * 60.0
    );
    ExitCode::SUCCESS
}
