//! Plays whole servers in virtual time, on schedules drawn from a seed, and checks them against the
//! contract.
//!
//! The arbiter's plan with its performer, the workers' sessions with their connections, and both
//! kinds of application are the real ones; kernel, network and clients are models. Clients stall,
//! split, pipeline, half-close and vanish; workers hang, die and fail to boot, with keepers and
//! without; operators reload, upgrade, recycle and scale; a freeze or a stop may begin at any step.
//! After each step the rules of the contract are checked, and at the end each client checks the
//! responses to its requests. A broken rule gives a [`Failure`]. Its seed plays exactly the same
//! schedule again.
//!
//! - `script`: the settings, clients and faults of a schedule, drawn from the seed
//! - `world`: the events of a schedule, in order
//! - `system`: performs the actions of the plan on the models
//! - `records`: the state and history of arbiters and workers
//! - `rules`: checked after every step and at the end
//! - `workers`: runs the loops, threads and timers of workers
//! - `process`: one worker
//! - `keeper`: what keepers do for the connections of workers that have ended
//! - `handler_thread`: a thread that runs a blocking handler
//! - `observed`: a session, checked at each step
//! - `client`, `response`: requests, and a strict parser of responses
//! - `wire`: the bytes between client and server
//! - `application`: the application of the server
//! - `monitor`: the time, the trace and the first breach
//!
//! Every action of the plan is performed, and leaving one out breaks a rule ([`run_without`]). Not
//! played are the application's own end (D14), a blocking handler that exceeds `request-timeout`,
//! and workers that are drained by WINCH. Real listeners, descriptors and processes are the subject
//! of the scenarios.

mod application;
mod client;
mod handler_thread;
mod keeper;
mod monitor;
mod observed;
mod process;
mod records;
mod response;
mod rules;
mod script;
mod system;
mod wire;
mod workers;
mod world;

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;

use self::monitor::{Breach, Monitor};
pub use self::system::ACTIONS;
use self::world::World;

/// The counts of a schedule that broke no rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Events.
    pub steps: u64,
    /// Requests that were answered completely.
    pub answered: usize,
    /// Reloads that were completed.
    pub reloads: u64,
    /// Upgrades that were completed.
    pub upgrades: u64,
    /// Workers that were recycled.
    pub recycles: u64,
    /// Connections that workers handed off.
    pub handoffs: u64,
    /// Connections that an arbiter has accepted for a slot without a worker.
    pub unattended: u64,
    /// Connections that keepers of dead workers handed off.
    pub rescued: u64,
    /// How often each action of the plan was performed, in the order of [`ACTIONS`].
    pub actions: [u64; ACTIONS.len()],
}

/// The counts of many schedules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Totals {
    /// The sums.
    pub sum: Summary,
    /// Schedules with a completed reload, an upgrade, a recycled worker, a connection that was
    /// handed off, one that was accepted for a slot without a worker, and one that a keeper handed
    /// off.
    pub seeds: [u64; 6],
}

impl Totals {
    /// Adds a schedule.
    pub fn add(&mut self, one: &Summary) {
        let counts =
            |of: &Summary| [of.reloads, of.upgrades, of.recycles, of.handoffs, of.unattended, of.rescued];
        for (seeds, count) in self.seeds.iter_mut().zip(counts(one)) {
            *seeds += u64::from(count > 0);
        }
        let Summary { steps, answered, reloads, upgrades, recycles, handoffs, unattended, rescued, actions } =
            one;
        let sum = &mut self.sum;
        (sum.steps, sum.answered) = (sum.steps + steps, sum.answered + answered);
        (sum.reloads, sum.upgrades) = (sum.reloads + reloads, sum.upgrades + upgrades);
        (sum.recycles, sum.handoffs) = (sum.recycles + recycles, sum.handoffs + handoffs);
        (sum.unattended, sum.rescued) = (sum.unattended + unattended, sum.rescued + rescued);
        sum.actions.iter_mut().zip(actions).for_each(|(all, one)| *all += one);
    }

    /// The actions of the plan that no schedule has performed.
    pub fn undone(&self) -> Vec<&'static str> {
        let none = ACTIONS.iter().zip(self.sum.actions).filter(|(_, count)| *count == 0);
        none.map(|(action, _)| *action).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { steps, answered, reloads, upgrades, recycles, handoffs, unattended, rescued, .. } =
            self.sum;
        let [reloading, upgrading, recycling, handing_off, relieving, rescuing] = self.seeds;
        write!(
            f,
            "{steps} steps, {answered} requests answered, {reloads} reloads in {reloading} schedules, "
        )?;
        write!(f, "{upgrades} upgrades in {upgrading}, {recycles} workers recycled in {recycling}, ")?;
        write!(
            f,
            "{handoffs} connections handed off in {handing_off}, {unattended} accepted by the arbiter in {relieving}, "
        )?;
        write!(f, "{rescued} handed off by keepers in {rescuing}")?;
        match self.undone() {
            undone if undone.is_empty() => f.write_str("; every action of the plan was done"),
            undone => write!(f, "; never done: {}", undone.join(", ")),
        }
    }
}

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed of the schedule.
    pub seed: u64,
    /// The number of the event, from 1.
    pub step: u64,
    /// The rule, named like a scenario.
    pub rule: &'static str,
    /// The observation that breaks it.
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
    play(seed, &Monitor::new(false))
}

/// Plays the schedule of `seed`, and never performs one of the [`ACTIONS`].
///
/// # Errors
///
/// The first rule that was broken.
pub fn run_without(action: &'static str, seed: u64) -> Result<Summary, Failure> {
    let monitor = Monitor::new(false);
    let mut world = World::new(seed, monitor, STACKS.take());
    world.without = Some(action);
    finish(seed, world)
}

/// Plays the schedule of `seed`. Returns its trace, line by line, as well.
pub fn trace(seed: u64) -> (Vec<String>, Result<Summary, Failure>) {
    let monitor = Monitor::new(true);
    let result = play(seed, &monitor);
    (monitor.take_trace(), result)
}

thread_local! {
    /// Stacks of handlers, reused by the next schedule.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

fn play(seed: u64, monitor: &std::sync::Arc<Monitor>) -> Result<Summary, Failure> {
    finish(seed, World::new(seed, monitor.clone(), STACKS.take()))
}

fn finish(seed: u64, mut world: World) -> Result<Summary, Failure> {
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let failure = |Breach { rule, what }| Failure { seed, step: world.steps, rule, what };
    let result = match played {
        Ok(Ok(())) => Ok(world.summary()),
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
