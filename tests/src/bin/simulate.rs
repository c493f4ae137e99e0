//! Plays schedules of the deterministic simulation: `simulate --schedules 100000`, or one schedule
//! again, line by line: `simulate --seed 4711 --trace`.
//!
//! `--seed` is the first seed, 0 by default; `--schedules` is the number of schedules from there
//! on, 1 by default. The program ends with status 1 at the first broken rule, and prints the
//! command that plays its schedule again. `--without ACTION` never performs that action of the
//! plan, which has to break a rule.

use std::process::ExitCode;
use std::time::Instant;

use remuda_conformance::simulation;

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what it is for")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seed, mut schedules, mut traced, mut without) = (0, 1, false, None);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        let known = match argument.as_str() {
            "--seed" => number().map(|n| seed = n),
            "--schedules" => number().map(|n| schedules = n),
            "--without" => {
                let action = arguments.next();
                let known = simulation::ACTIONS.into_iter().find(|known| action.as_deref() == Some(*known));
                known.map(|action| without = Some(action))
            }
            "--trace" => {
                traced = true;
                Some(())
            }
            _ => None,
        };
        if known.is_none() {
            eprintln!(
                "usage: simulate [--seed N] [--schedules N] [--trace] [--without ACTION], not {argument}"
            );
            return ExitCode::from(2);
        }
    }
    let (began, mut all) = (Instant::now(), simulation::Totals::default());
    for seed in seed..seed.saturating_add(schedules) {
        let result = if traced {
            let (lines, result) = simulation::trace(seed);
            lines.iter().for_each(|line| println!("{line}"));
            result
        } else if let Some(action) = without {
            simulation::run_without(action, seed)
        } else {
            simulation::run(seed)
        };
        match result {
            Ok(summary) => all.add(&summary),
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{schedules} schedules in {took:.1} s, {:.0} a minute: {all}", schedules as f64 / took * 60.0);
    ExitCode::SUCCESS
}
