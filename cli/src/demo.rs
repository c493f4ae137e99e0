//! The built-in application: what remuda serves when it is given no other, and what benchmarks and black-box
//! tests talk to.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `Hello, World!` |
//! | `POST /echo` | the request's body, streamed back as it arrives, with its Content-Type |
//! | `GET /sleep?ms=N`, `GET /block?ms=N` | 200 after N ms (1000), at most ten minutes |
//! | `GET /stream?chunks=N&size=B&ms=M` | N chunks (10) of B bytes (1024), M ms (100) apart |
//! | `GET /bytes?n=N` | N bytes (1024) with Content-Length |
//! | `GET /events` | server-sent events, one a second, until the worker drains |
//! | `GET /info` | JSON: worker, phase, requests served by it and by this connection, client and scheme |
//! | `GET /headers` | a line for each field received, in order |
//! | `GET /status?code=N&body=1` | status N (200), without content or, wrongly for some, with it |
//! | `GET /upgrade` | 101 to the protocol asked for, which here echoes bytes until either side ends |
//!
//! The numbers in parentheses are what counts where a parameter is missing. No response is longer than
//! 1 GiB, and none is held in memory: they are written from one buffer.

use std::process;

use remuda_core::app::{App, AppError, AsyncHandler, Boot, ConnectionInfo, Handler};
use remuda_core::client::Client;
use serde::Serialize;

mod blocking;
mod future;
mod request;

/// Builds the application in a worker, as suits its backend: of async handlers where the backend is made for those, of
/// blocking ones elsewhere.
///
/// # Errors
///
/// None; the signature is that of an [`AppFactory`](crate::AppFactory).
pub fn build(boot: &Boot) -> Result<App, AppError> {
    if is_async(boot) { asynchronous(boot) } else { blocking(boot) }
}

/// Which kind [`build`] builds: that of the backend.
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

/// The application's handlers of both kinds, for programs that add something to it.
pub fn handler(boot: &Boot) -> impl Handler + AsyncHandler + use<> {
    Demo { boot: boot.clone() }
}

#[derive(Debug)]
struct Demo {
    boot: Boot,
}

impl Demo {
    /// The answer to `/info`, for a client on a connection.
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

/// The answer to `/info`.
#[derive(Serialize)]
struct Info {
    pid: u32,
    /// None where all workers share the application.
    slot: Option<u16>,
    generation: u32,
    backend: &'static str,
    phase: String,
    /// Of this worker, this one included.
    requests: u64,
    /// Of this connection, this one included.
    connection_requests: u32,
    /// Address and port, if they are known.
    client: String,
    scheme: &'static str,
}

/// What bodies without a meaning are made of.
static FILLING: [u8; 64 * 1024] = [b'x'; 64 * 1024];
