//! Whole servers in virtual time: what the contract promises, under schedules that a seed draws.
//!
//! The arbiter's plan, the workers' sessions with their intake, and both kinds of application are the real ones; kernel,
//! network and clients are models. Clients stall, split, pipeline, half-close and vanish; workers hang, die and do not
//! boot; everybody is frozen or told to stop at any step. After each step the rules of the contract are checked, and in
//! the end every client says what became of its requests. A rule that is broken gives a [`Failure`], whose seed brings
//! exactly the same to pass again.
//!
//! ```text
//! script     what a seed draws             world    what happens, in order          client, response   who asks
//! process    a worker: loop, threads       workers  how loops come to run           wire               bytes between
//! observed   a session, held to the rules  hand     a handler that blocks           application        who answers
//! stage      what the arbiter does         fates    what has become of its workers    ground             what all share
//! ```
//!
//! It does not look at listeners, descriptors and processes as they are: that is what the scenarios are for.

mod application;
mod client;
#[path = "simulation/records.rs"]
mod fates;
#[path = "simulation/monitor.rs"]
mod ground;
#[path = "simulation/handler_thread.rs"]
mod hand;
mod observed;
mod process;
mod response;
mod script;
#[path = "simulation/system.rs"]
mod stage;
mod wire;
mod workers;
mod world;

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;

use self::ground::{Breach, Ground};
use self::world::World;

/// What became of a schedule that kept every rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Events.
    pub steps: u64,
    /// Requests that were answered to the last byte.
    pub answered: usize,
}

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// What draws the schedule.
    pub seed: u64,
    /// The event in which it happened, from 1.
    pub step: u64,
    /// The rule, as scenarios are named.
    pub rule: &'static str,
    /// What happened instead.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, rule, what } = self;
        writeln!(f, "{rule}, seed {seed}, step {step}: {what}")?;
        write!(f, "replay: cargo run --release -p remuda-conformance --bin simulate -- --seed {seed} --trace")
    }
}

/// Plays the schedule of `seed`.
///
/// # Errors
///
/// The first rule that was broken.
pub fn run(seed: u64) -> Result<Summary, Failure> {
    play(seed, &Ground::new(false))
}

/// The same, and what happened line by line.
pub fn trace(seed: u64) -> (Vec<String>, Result<Summary, Failure>) {
    let ground = Ground::new(true);
    let result = play(seed, &ground);
    (ground.take_trace(), result)
}

thread_local! {
    /// Stacks for handlers, used again by the next schedule.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

fn play(seed: u64, ground: &std::sync::Arc<Ground>) -> Result<Summary, Failure> {
    let mut world = World::new(seed, ground.clone(), STACKS.take());
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let failure = |Breach { rule, what }| Failure { seed, step: world.steps, rule, what };
    let result = match played {
        Ok(Ok(())) => Ok(Summary { steps: world.steps, answered: world.answered }),
        Ok(Err(breach)) => Err(failure(breach)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(failure(Breach { rule: "no_panic", what: text.to_owned() }))
        }
    };
    STACKS.set(std::mem::take(&mut world.stacks));
    result
}

#[cfg(test)]
mod tests;
