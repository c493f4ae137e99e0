//! How nginx and hyper treat the requests of the corpus, beside remuda. `tests/differential.md` has
//! every difference with the reason for it, and no other.
//!
//! Each case is sent on a connection of its own, followed by a request that asks for close and has
//! a response no other request has. Whether that response comes tells whether the connection was
//! kept, and whether the three servers agree where the case ends.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use remuda_conformance::Harness;
use remuda_conformance::client::{Address, End, PATIENCE};
use tokio::runtime;

use crate::corpus::{Case, cases};
use crate::front::Proxy;

#[test]
fn nginx_and_hyper_differ_as_the_table_says() {
    let remuda = Harness::new("tokio", "blocking", Path::new(env!("CARGO_BIN_EXE_fixture"))).serve(&[]);
    let nginx = Proxy::nginx_alone(MARKED.split_once('?').map_or(MARKED, |(path, _)| path));
    let cases = cases();
    let outcomes = [remuda.address(), nginx.address(), &hyper()].map(|server| outcomes(&cases, server));
    let mut found = BTreeMap::new();
    for (number, Case { name, .. }) in cases.iter().enumerate() {
        let row = outcomes.each_ref().map(|outcomes| outcomes[number].clone());
        if row[0] != row[1] || row[0] != row[2] {
            assert_eq!(found.insert(plain(name), row), None, "there are two cases of the name {name}");
        }
    }
    let (told, names) = (table(), cases.iter().map(|case| plain(&case.name)).collect::<BTreeSet<_>>());
    let mut wrong = Vec::new();
    for name in told.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        match (told.get(name), found.get(name)) {
            (told, found) if told == found => {}
            (None, Some(found)) => wrong.push(format!("not in the table: {name}: {}", found.join(" | "))),
            (Some(_), None) if names.contains(name) => wrong.push(format!("no difference any more: {name}")),
            (Some(_), None) => wrong.push(format!("no such case: {name}")),
            (_, Some(found)) => wrong.push(format!("another difference: {name}: {}", found.join(" | "))),
            (None, None) => {}
        }
    }
    assert!(wrong.is_empty(), "tests/differential.md is wrong:\n{}", wrong.join("\n"));
}

/// The rows of `tests/differential.md`: for each case, how the three servers treat it.
fn table() -> BTreeMap<String, [String; 3]> {
    let mut told = BTreeMap::new();
    for line in include_str!("../differential.md").lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, remuda, nginx, hyper, names] = cells[..] else { panic!("five cells are a row: {line}") };
        for name in names.split(", ") {
            let row = [remuda, nginx, hyper].map(str::to_owned);
            assert_eq!(told.insert(name.to_owned(), row), None, "{name} is there twice");
        }
    }
    told
}

/// The name of a case as the table has it.
fn plain(name: &str) -> String {
    Path::new(name).file_stem().expect("it is a file").to_string_lossy().into_owned()
}

/// How `server` treats each case, in order.
fn outcomes<'a>(cases: &'a [Case], server: &Address) -> Vec<String> {
    const AT_ONCE: usize = 8;
    thread::scope(|scope| {
        let parts = cases.chunks(cases.len().div_ceil(AT_ONCE));
        let spawn = |part: &'a [Case]| {
            scope.spawn(move || part.iter().map(|case| outcome(case, server)).collect::<Vec<_>>())
        };
        let threads: Vec<_> = parts.map(spawn).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no case panics")).collect()
    })
}

/// The classes of the statuses received, and whether the connection is then kept, ends, or waits
/// for more bytes.
fn outcome(Case { name, request, .. }: &Case, server: &Address) -> String {
    let mut client = server.connect(PATIENCE).unwrap_or_else(|error| panic!("{name}: {error}"));
    let probe = format!("GET {MARKED} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // A server that has refused the case need not read further.
    let _ = client.try_send([request, probe.as_bytes()].concat());
    let (sent, end) = client.rest(QUIET);
    let mut classes: Vec<&str> = statuses(&sent).filter_map(class).collect();
    let fate = match end {
        _ if classes.last() == Some(&MARK) => "keep",
        End::StillOpen => "wait",
        _ => "close",
    };
    classes.retain(|class| *class != MARK);
    if !sent.is_empty() && !sent.starts_with(b"HTTP/") {
        classes.insert(0, "0.9");
    }
    classes.push(fate);
    classes.join(" ")
}

/// The statuses of all status lines. No body sent here contains a status line.
fn statuses(sent: &[u8]) -> impl Iterator<Item = u16> {
    const LINE: usize = b"HTTP/1.1 200 ".len();
    sent.windows(LINE).filter_map(|line| match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', status @ .., b' '] => {
            str::from_utf8(status).ok()?.parse().ok()
        }
        _ => None,
    })
}

/// The class that is compared. Statuses that an application chooses are one class, and interim
/// responses have none.
fn class(status: u16) -> Option<&'static str> {
    Some(match status {
        100..=199 => return None,
        418 => MARK,
        200..=299 | 404 | 405 | 426 => "served",
        400..=499 => "4xx",
        _ => "5xx",
    })
}

/// A request for this target is answered with 418.
const MARKED: &str = "/status?code=418";

const MARK: &str = "418";

/// How long a server that waits for more bytes is silent.
const QUIET: Duration = Duration::from_secs(2);

/// A default hyper server, on a thread that ends with the process.
fn hyper() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a socket can be told not to block");
    thread::spawn(move || {
        let runtime =
            runtime::Builder::new_current_thread().enable_io().build().expect("there are descriptors");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
            let tasks = tokio::task::LocalSet::new();
            tasks
                .run_until(async {
                    loop {
                        let (stream, _) = listener.accept().await.expect("there are descriptors");
                        let connection =
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                        // The client sees how a connection ends.
                        tokio::task::spawn_local(async { drop(connection.await) });
                    }
                })
                .await;
        });
    });
    Address::Inet(address)
}

/// Reads the whole body. A fault in it is answered with 400.
async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let marked = request.uri().path_and_query().is_some_and(|target| target == MARKED);
    *response.status_mut() = match request.into_body().collect().await {
        Ok(_) if marked => StatusCode::IM_A_TEAPOT,
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    Ok(response)
}
