//! An axum router as axum itself serves it, on a current-thread runtime: `bench-axum-hyper
//! ADDRESS`.

use std::{env, io};

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::runtime;

fn main() -> io::Result<()> {
    let address = env::args().nth(1).ok_or_else(|| io::Error::other("no address was given"))?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(&address))
}

async fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?.tap_io(|stream| {
        // A failure would show in the numbers and does no other harm.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, Router::new().route("/", get(|| async { "Hello, World!" }))).await
}
