//! The level of the log, changed while the server runs. Whoever owns the subscriber says how; the arbiter and its workers,
//! which inherit that by the fork, do it when they are told to.

use std::sync::OnceLock;

use crate::order::Level;

static CHANGE: OnceLock<Box<dyn Fn(Level) + Send + Sync>> = OnceLock::new();

/// Has `change` called, in each process, when the level is to be another one. Once a process; later calls do nothing.
pub fn on_change(change: impl Fn(Level) + Send + Sync + 'static) {
    let _ = CHANGE.set(Box::new(change));
}

/// Changes it; `false` if nobody has said how.
pub fn set(level: Level) -> bool {
    CHANGE.get().inspect(|change| change(level)).is_some()
}
