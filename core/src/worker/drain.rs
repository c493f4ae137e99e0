//! The drain: its state, when the worker may exit, and the application's own end before that.

pub use self::ending::Ending;
pub(super) use self::state::DrainState;

pub mod completion;
mod ending;
mod state;
