//! The harness with shell scripts in place of servers.

use super::*;

fn harness() -> Harness {
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/process/stand-in.sh");
    Harness { fixture: stand_in, ..Harness::new("any", "none", Path::new("")) }
}

const READY: &str = "echo 'ready at http://127.0.0.1:9, stop it with INT';";

#[test]
fn the_address_is_read_from_a_complete_line() {
    let dir = Path::new("/dir");
    let inet = |text| Some(Address::Inet(str::parse(text).unwrap()));
    assert_eq!(address_in("at http://127.0.0.1:80", dir), None);
    assert_eq!(address_in("at http://127.0.0.1:8000, pid 1\n", dir), inet("127.0.0.1:8000"));
    assert_eq!(address_in("x\naddress=\"http://[::1]:80/\" y\n", dir), inet("[::1]:80"));
    assert_eq!(address_in("at unix:a.sock\n", dir), Some(Address::Unix("/dir/a.sock".into())));
    assert_eq!(address_in("at unix:/b/a.sock (1 worker)\n", dir), Some(Address::Unix("/b/a.sock".into())));
}

#[test]
fn a_status_is_collected_and_the_log_kept() {
    let mut server = harness().serve(&[&format!("{READY} echo problem >&2; exit 5")]);
    assert_eq!(server.exit(PATIENCE), 5);
    assert!(server.log().ends_with("problem\n"), "{}", server.log());
}

#[test]
fn orphans_are_noticed_and_ended() {
    let server = harness().serve(&[&format!("sleep 60 & sleep 60 & {READY} wait")]);
    let workers = server.workers(2);
    assert!(workers[0].peak_memory() > 0);
    server.arbiter().signal(Signal::KILL);
    assert!(server.arbiter().wait_gone(PATIENCE));
    assert!(!server.wait_no_process(Duration::from_millis(50)));
    workers[0].signal(Signal::TERM);
    assert!(workers[0].wait_gone(PATIENCE));
    assert!(!workers[1].wait_gone(Duration::from_millis(50)));
    drop(server);
    assert!(workers[1].wait_gone(Duration::ZERO));
}

#[test]
#[should_panic(expected = "a worker outlives the arbiter")]
fn an_arbiter_that_leaves_a_worker_behind_fails() {
    harness().serve(&[&format!("sleep 60 & {READY} exit 0")]).exit(PATIENCE);
}

#[test]
#[should_panic(expected = "the server did not become ready")]
fn a_server_that_ends_before_it_is_ready_fails_at_once() {
    harness().serve(&["exit 1"]);
}
