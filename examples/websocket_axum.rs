//! A WebSocket echo in an axum `Router`, on tokio-tungstenite.
//!
//! Run it with `cargo run --release --example websocket_axum` and connect to
//! `ws://localhost:8000/`, which echoes every message. Stop it with Ctrl-C: it sends a close frame
//! (1001) on every open connection. axum's own `ws` works with hyper's connections only.

use std::process::ExitCode;

use axum::body::Body;
use axum::http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, routing::get};
use futures_lite::future;
use futures_util::{SinkExt, StreamExt};
use remuda::app::{DrainSignal, Duplex, RequestInfo, take_over};
use tokio_tungstenite::WebSocketStream;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, Message};

fn main() -> ExitCode {
    remuda::run(Router::new().route("/", get(echo)))
}

async fn echo(Extension(info): Extension<RequestInfo>, headers: HeaderMap) -> Response {
    let Some((key, bytes)) = headers.get(SEC_WEBSOCKET_KEY).zip(info.upgrade()) else {
        return (StatusCode::UPGRADE_REQUIRED, [(UPGRADE, "websocket")], "Speak WebSocket.\n")
            .into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    let fields = [(UPGRADE, "websocket"), (SEC_WEBSOCKET_ACCEPT, accept.as_str())];
    let body = take_over(bytes, async |stream| drop(converse(stream, info.drain).await));
    (StatusCode::SWITCHING_PROTOCOLS, fields, Body::new(body)).into_response()
}

/// Echoes messages until the client sends a close frame, which it also does in answer to the
/// server's at a drain.
async fn converse(stream: Duplex, drain: DrainSignal) -> Result<(), Error> {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    loop {
        let told = async {
            drain.drained().await;
            None
        };
        let Some(message) = future::or(told, async { Some(socket.next().await) }).await else { break };
        match message {
            Some(Ok(message)) if message.is_text() || message.is_binary() => socket.send(message).await?,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
    let goodbye = CloseFrame { code: CloseCode::Away, reason: "the server is stopping".into() };
    socket.send(Message::Close(Some(goodbye))).await?;
    while socket.next().await.transpose()?.is_some() {}
    Ok(())
}
