//! A WebSocket echo as a blocking application, on tungstenite.
//!
//! Run it with `cargo run --release --example websocket -- -k threaded --threads 16` and connect to
//! `ws://localhost:8000/`, which echoes every message. Each connection holds a thread. Stop it with
//! Ctrl-C: it sends a close frame (1001) on every open connection.

use std::io::ErrorKind;
use std::process::ExitCode;

use remuda::{AppError, BodyReader, Head, Responder, ResponseHead};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, WebSocket};

fn main() -> ExitCode {
    remuda::run(echo)
}

fn echo(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    let Some(key) = head.field("Sec-WebSocket-Key").filter(|_| head.offers_upgrade()) else {
        return Ok(out.send(ResponseHead::new(426).field("Upgrade", "websocket"), "Speak WebSocket.\n")?);
    };
    let head = ResponseHead::new(101)
        .field("Upgrade", "websocket")
        .field("Sec-WebSocket-Accept", derive_accept_key(key));
    let mut socket = WebSocket::from_raw_socket(out.upgrade(head)?, Role::Server, None);
    loop {
        match socket.read() {
            Ok(message) if message.is_text() || message.is_binary() => socket.send(message)?,
            // The library answers pings and close frames.
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return Ok(()),
            // Once, when the worker drains. The client answers with its own close frame.
            Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {
                let reason = "the server is stopping".into();
                socket.close(Some(CloseFrame { code: CloseCode::Away, reason }))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
