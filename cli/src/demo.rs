//! The built-in application, served if no other is given, and used by benchmarks and black-box
//! tests.
//!
//! | request | response |
//! |---|---|
//! | `GET /` | `Hello, World!` |
//! | `POST /echo` | the request's body, streamed back as it arrives, with its Content-Type |
//! | `GET /sleep?ms=N`, `GET /block?ms=N` | 200 after N ms (1000), at most ten minutes |
//! | `GET /stream?chunks=N&size=B&ms=M` | N chunks (10) of B bytes (1024), M ms (100) apart |
//! | `GET /bytes?n=N` | N bytes (1024) with Content-Length |
//! | `GET /events` | server-sent events, one a second, until the worker drains |
//! | `GET /info` | JSON: worker, phase, requests served by the worker and on this connection, client and scheme |
//! | `GET /headers` | one line for each received field, in order |
//! | `GET /status?code=N&body=1` | status N (200), without content or, although wrong for some statuses, with content |
//! | `GET /upgrade` | 101 to the requested protocol, which here echoes bytes until either side ends |
//!
//! The numbers in parentheses are the defaults of the parameters. No response is longer than 1 GiB,
//! and none is held in memory: all are written from one buffer.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use remuda::{Server, demo};
//!
//! fn main() -> ExitCode {
//!     Server::new(demo::build).run()
//! }
//! ```

use std::process;

use remuda_core::app::{App, AppError, AsyncHandler, Boot, ConnectionInfo, Handler};
use remuda_core::client::Client;
use serde::Serialize;

mod blocking;
mod future;
mod request;

/// Builds the application in a worker, with async handlers on the backends with a runtime (tokio,
/// smol, async-std) and with blocking handlers on the others.
///
/// # Errors
///
/// None; the signature is that of an [`AppFactory`](crate::app::AppFactory).
pub fn build(boot: &Boot) -> Result<App, AppError> {
    if is_async(boot) { asynchronous(boot) } else { blocking(boot) }
}

/// Whether [`build`] builds async handlers.
pub fn is_async(boot: &Boot) -> bool {
    matches!(boot.backend, "tokio" | "smol" | "async-std")
}

/// Builds the application of blocking handlers.
///
/// # Errors
///
/// As [`build`].
pub fn blocking(boot: &Boot) -> Result<App, AppError> {
    Ok(App::blocking(handler(boot)))
}

/// Builds the application of async handlers.
///
/// # Errors
///
/// As [`build`].
pub fn asynchronous(boot: &Boot) -> Result<App, AppError> {
    Ok(App::future(handler(boot)))
}

/// The application as a handler of both kinds, for programs that extend it.
pub fn handler(boot: &Boot) -> impl Handler + AsyncHandler + use<> {
    Demo { boot: boot.clone() }
}

#[derive(Debug)]
struct Demo {
    boot: Boot,
}

impl Demo {
    /// The response to `/info`.
    fn info(&self, connection: &ConnectionInfo, client: Client) -> serde_json::Result<Vec<u8>> {
        let phase = self.boot.drain.drain().map_or_else(|| "running".into(), |d| format!("{:?}", d.phase));
        serde_json::to_vec(&Info {
            pid: process::id(),
            slot: (!self.boot.preloaded).then_some(self.boot.slot),
            generation: self.boot.generation,
            backend: self.boot.backend,
            phase: phase.to_lowercase(),
            requests: self.boot.counters.requests.get(),
            connection_requests: connection.requests,
            client: client.to_string(),
            scheme: client.scheme.as_str(),
        })
    }
}

/// The content of `/info`.
#[derive(Serialize)]
struct Info {
    pid: u32,
    /// `None` if the application was preloaded, and so is shared by all workers.
    slot: Option<u16>,
    generation: u32,
    backend: &'static str,
    phase: String,
    /// Requests of this worker so far, this one included.
    requests: u64,
    /// Requests on this connection so far, this one included.
    connection_requests: u32,
    /// The client's address and port, as far as they are known.
    client: String,
    scheme: &'static str,
}

/// The content of generated bodies.
static FILLING: [u8; 64 * 1024] = [b'x'; 64 * 1024];
