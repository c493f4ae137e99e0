//! An axum `Router` on a connection without a socket.

use std::task::Waker;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use remuda_core::app::{Counters, DrainSignal, DrainWatch, RequestInfo, Service};
use remuda_core::config::Limits;
use remuda_core::conn::Connection;
use remuda_core::http1::HttpDate;
use remuda_core::machine::{Cx, IoSlices, Machine, Wire};
use remuda_core::peer::{Origin, Peer};
use remuda_core::session::Session;
use remuda_core::shutdown::{Drain, Finish};
use remuda_core::time::Time;

use super::*;

#[derive(Debug)]
struct Never;

impl DrainWatch for Never {
    fn drain(&self) -> Option<Drain> {
        None
    }

    fn wait(&self, _: Duration) -> bool {
        false
    }

    fn register(&self, _: &Waker, _: Option<usize>) -> usize {
        0
    }

    fn deregister(&self, _: usize) {}

    fn now(&self) -> Time {
        Time::ZERO
    }
}

#[test]
fn a_router_finds_the_drain_and_the_connection_in_the_extensions() {
    async fn about(Extension(info): Extension<RequestInfo>) -> String {
        format!("{} {} {}", info.connection.peer, info.connection.requests, info.drain.is_set())
    }

    let app = Router::new().route("/about", get(about)).into_app();
    let service = Service::new(app, DrainSignal::new(Arc::new(Never)), Arc::new(Counters::default()));
    let connection = Connection::new(Origin::new(0, Peer::Unix, 0), Time::ZERO);
    let mut session = Session::new(connection, Arc::new(service));
    let request = b"GET /about HTTP/1.1\r\nHost: example\r\n\r\n";
    session.read_buf()[..request.len()].copy_from_slice(request);
    session.handle_read(request.len(), Time::ZERO);
    let (date, limits) = (HttpDate::from_unix(0), Limits::default());
    session.step(&Cx::new(Time::ZERO, &date, Waker::noop(), &limits, &Finish));
    let mut out = IoSlices::new();
    session.transmit(&mut out);
    let response: Vec<u8> = out.as_slices().iter().flat_map(|slice| slice.to_vec()).collect();
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nunix 1 false"), "{response}");
}
