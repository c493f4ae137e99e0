//! The states of a connection that the probe observes.

use super::connection::{BLOCK, Opened};
use crate::process::Server;
use crate::scenario::{get, get_with_body};

/// A state.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Brings a new connection into this state.
    pub(super) open: fn(&Server) -> Opened,
}

impl Row {
    const fn new(name: &'static str, open: fn(&Server) -> Opened) -> Self {
        Self { name, open }
    }
}

/// Rows that need no handler come first, so that no handler begins long before TERM.
pub(super) const ROWS: &[Row] = &[
    Row::new("fresh", |server| {
        let client = server.connect();
        server.catch_up();
        Opened::new(client)
    }),
    Row::new("half a head", |server| {
        let mut client = server.connect();
        client.send("GET / HTTP/1.1\r\nHo");
        server.catch_up();
        Opened::new(client)
    }),
    Row::new("idle", idle),
    Row::new("idle, speaks at 0.5 s", |server| idle(server).saying(0.5, get("/"))),
    Row::new("upgraded", upgraded),
    Row::new("server-sent events", |server| {
        let mut client = server.connect();
        server.begin(&mut client, get("/events"));
        let head = client.head();
        Opened::new(client).with_head(head)
    }),
    Row::new("in flight, 2.4 s", |server| begun(server, get("/sleep?ms=2400"))),
    Row::new("in flight, head sent", |server| {
        let mut client = server.connect();
        server.begin(&mut client, get("/stream?chunks=7&size=10&ms=300"));
        let head = client.head();
        Opened::new(client).with_head(head)
    }),
    Row::new("pipelined ×3", |server| begun(server, get("/sleep?ms=800").repeat(3))),
    Row::new("request body unread", |server| {
        begun(server, get_with_body("/sleep?ms=400", UNREAD * BLOCK.len())).uploading(UNREAD)
    }),
];

/// Blocks of an unread body: most of it is sent after the response.
const UNREAD: usize = 100;

fn idle(server: &Server) -> Opened {
    let mut client = server.connect();
    client.send(get("/"));
    assert_eq!(client.response().status, 200);
    Opened::new(client)
}

fn begun(server: &Server, request: String) -> Opened {
    let mut client = server.connect();
    server.begin(&mut client, request);
    Opened::new(client)
}

fn upgraded(server: &Server) -> Opened {
    let mut client = server.connect();
    client.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 101);
    client.send("echo");
    assert_eq!(client.bytes(4), b"echo");
    Opened::new(client).answered(response.status)
}
