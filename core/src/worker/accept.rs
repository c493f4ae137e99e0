//! Accepting connections: listeners, the fair share of each worker, and the gate of a listener that
//! ends.

pub use self::acceptor::{AcceptError, Accepted, Acceptor};
pub use self::gates::Gates;
pub use self::listener::{Bound, Listener, Ownership};
pub use self::thread::AcceptThread;

mod acceptor;
mod gates;
mod listener;
mod thread;
