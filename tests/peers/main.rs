//! Programs that others wrote, as peers of every backend that is built in: nginx and HAProxy in front, with connections
//! that they keep; `ab`; and nginx and hyper beside it, with the same requests.
//!
//! They come as Debian packages (`nginx`, `haproxy`, `apache2-utils`), so that only `.ci/run` asks for this:
//! `cargo test -p remuda-conformance --features peers --test peers`. A program that is missing is a failure.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::probe::backends;

use self::front::Front;

#[allow(dead_code, reason = "what should become of the requests is for others to ask")]
#[path = "../src/corpus.rs"]
mod corpus;
mod differential;
mod front;
mod load;

#[test]
fn nginx_in_front_sees_no_error_while_workers_come_and_go() {
    for harness in servers() {
        let server = harness.serve(BEHIND);
        let nginx = Front::nginx(server.address());
        load::while_workers_come_and_go(&server, nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_sees_no_error_while_workers_are_recycled() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, RECYCLING].concat());
        let nginx = Front::nginx(server.address());
        load::while_workers_are_recycled(nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_sees_no_error_while_the_server_is_reloaded() {
    for harness in servers() {
        let server = harness.serve(BEHIND);
        let nginx = Front::nginx(server.address());
        load::while_reloaded(&server, nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_keeps_its_connections_while_the_server_is_reloaded() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, COUNTED].concat());
        let nginx = Front::nginx_for(server.address(), load::CLIENTS);
        load::on_the_same_connections_while_reloaded(&server, nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_sees_no_error_while_reloads_fail() {
    for harness in servers() {
        let settings = format!(
            "worker-class = \"{}\"\nbind = \"127.0.0.1:0\"\nworkers = 2\nkeep-alive = 60\n",
            harness.backend()
        );
        let server = harness.serve_file(&settings);
        let nginx = Front::nginx(server.address());
        load::while_reloads_fail(&server, nginx.address(), &settings);
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_sees_no_error_while_workers_are_recycled() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, RECYCLING].concat());
        let haproxy = Front::haproxy(server.address());
        load::while_workers_are_recycled(haproxy.address());
        assert_eq!(haproxy.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_sees_no_error_while_workers_come_and_go() {
    for harness in servers() {
        let server = harness.serve(BEHIND);
        let haproxy = Front::haproxy(server.address());
        load::while_workers_come_and_go(&server, haproxy.address());
        assert_eq!(haproxy.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_keeps_its_connections_while_the_server_is_reloaded() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, COUNTED].concat());
        let haproxy = Front::haproxy(server.address());
        load::on_the_same_connections_while_reloaded(&server, haproxy.address());
        assert_eq!(haproxy.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_names_its_clients_in_a_proxy_header() {
    for harness in servers() {
        for sends in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
            let server = harness.serve(&["--proxy-protocol", "auto"]);
            let haproxy = Front::haproxy_proxying(server.address(), sends);
            named(&haproxy, "192.0.2.1:4660", "http");
        }
    }
}

#[test]
fn nginx_in_front_names_its_clients_in_fields() {
    for harness in servers() {
        let server = harness.serve(&[]);
        named(&Front::nginx_forwarding(server.address()), "192.0.2.1", "https");
    }
}

/// A client that tells `front` its address in a PROXY header is named to the server behind it, for each of its requests; what
/// it says in a field is not believed.
#[track_caller]
fn named(front: &Front, client: &str, scheme: &str) {
    let mut connection = front.address().connect(PATIENCE).expect("it listens");
    connection.send("PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n");
    for _ in 0..2 {
        connection.send("GET /info HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n");
        let info = connection.response();
        let expected = format!("\"client\":{client:?},\"scheme\":{scheme:?}");
        assert!(info.text().contains(&expected), "not {expected}: {info:?}");
    }
    assert_eq!(front.errors(), "");
}

/// It is the server's business when its connections end, but an idle one must not end while a request is on its way.
const BEHIND: &[&str] = &["-w", "2", "--keep-alive", "60"];

/// How many connections there were is asked.
const COUNTED: &[&str] = &["--admin-bind", load::ADMIN];

const RECYCLING: &[&str] = &["--max-requests", "300"];

/// The options of the report that this project began with (gunicorn's issue 1236), the threads apart.
const AS_REPORTED: &[&str] = &["--max-requests", "512", "--keep-alive", "2", "--workers", "4"];

#[test]
fn ab_loses_no_request_to_recycling() {
    for harness in servers() {
        for _ in 0..5 {
            let threads: &[&str] = if harness.backend() == "sync" { &[] } else { &["--threads", "20"] };
            let server = harness.serve(&[AS_REPORTED, threads].concat());
            let Address::Inet(address) = server.address() else { unreachable!("it has a port") };
            let mut ab = Command::new("ab");
            ab.args(["-n", "10000", "-c", "20", "-s", "1", "-k", "-r", &format!("http://{address}/")]);
            let output = ab.output().expect("ab is installed (Debian: apache2-utils)");
            let said = String::from_utf8_lossy(&output.stdout);
            let number = |label: &str| said.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
            assert_eq!(number("Complete requests:"), Some("10000"), "{harness:?}: {output:?}");
            assert_eq!(number("Failed requests:"), Some("0"), "{harness:?}: {output:?}");
            assert_eq!(number("Non-2xx responses:"), None, "{harness:?}: {output:?}");
        }
    }
}

/// Every backend with both kinds of application, one at a time: they are all there is on the machine.
fn servers() -> impl Iterator<Item = Harness> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone: MutexGuard<'_, ()> = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Path::new(env!("CARGO_BIN_EXE_fixture"));
    let all = backends().into_iter().flat_map(|name| ["blocking", "async"].map(|kind| (name.clone(), kind)));
    all.map(move |(name, kind)| {
        let _alone = &alone;
        Harness::new(&name, kind, fixture)
    })
}
