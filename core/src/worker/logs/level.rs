//! Changing the log level while the server runs. The owner of the subscriber registers how; the
//! arbiter, and its workers after the fork, apply it on an order.

use std::sync::OnceLock;

use crate::order::Level;

static CHANGE: OnceLock<Box<dyn Fn(Level) + Send + Sync>> = OnceLock::new();

/// Registers `change`, which is called in each process when the level changes. Later calls in the
/// same process have no effect.
pub fn on_change(change: impl Fn(Level) + Send + Sync + 'static) {
    let _ = CHANGE.set(Box::new(change));
}

/// Changes the level. Returns false if no function has been registered for that.
pub fn set(level: Level) -> bool {
    CHANGE.get().inspect(|change| change(level)).is_some()
}
