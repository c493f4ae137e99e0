//! What `preload` saves, and what it cannot do. It hardly depends on the backend.

use std::path::Path;

use remuda_conformance::Harness;
use remuda_conformance::client::PATIENCE;
use remuda_conformance::process::Process;
use rustix::process::Signal;

const MEGABYTES: u64 = 100;
const WORKERS: usize = 4;

fn harness(backend: &str, application: &str) -> Harness {
    Harness::new(backend, application, Path::new(env!("CARGO_BIN_EXE_fixture")))
}

#[test]
fn workers_share_the_memory_of_a_preloaded_application() {
    for backend in ["sync", "threaded", "tokio"] {
        let megabytes = |args: &[&str]| {
            let harness =
                harness(backend, "blocking").with_variable("FIXTURE_MEGABYTES", &MEGABYTES.to_string());
            let mut server = harness.serve(&[&["-w", &WORKERS.to_string()], args].concat());
            let workers = server.workers(WORKERS);
            for _ in 0..4 * WORKERS {
                server.catch_up();
            }
            let share = [server.arbiter()].into_iter().chain(&workers).map(Process::share).sum::<u64>() >> 20;
            server.arbiter().signal(Signal::TERM);
            assert_eq!(server.exit(PATIENCE), 0);
            share
        };
        let (apart, together) = (megabytes(&[]), megabytes(&["--preload"]));
        report(&format!(
            "{backend}: an application of {MEGABYTES} MB in {WORKERS} workers takes {together} MB with preload, \
             {apart} MB without"
        ));
        assert!(together < 2 * MEGABYTES, "it takes {together} MB with preload");
        assert!(apart > WORKERS as u64 * MEGABYTES, "it takes {apart} MB without preload");
    }
}

#[test]
fn a_failed_preload_ends_the_server_with_a_clear_error() {
    for (fault, status, said) in [
        ("fail", 4, "the application failed to load: it was told to fail"),
        ("panic", 4, "the application failed to load: it panicked"),
        ("thread", 1, "the application that `preload` builds here has started them"),
    ] {
        let harness = harness("tokio", "blocking").with_variable("FIXTURE_FAULT", fault);
        let mut server = harness.launch("127.0.0.1:0", &["--preload"]);
        assert_eq!(server.exit(PATIENCE), status, "{fault}");
        assert!(server.log().contains(said), "{}", server.log());
        if fault == "thread" {
            assert!(
                server.log().contains("2 threads (") && server.log().contains("bystander "),
                "{}",
                server.log()
            );
        }
    }
    let mut server = harness("tokio", "tokio").launch("127.0.0.1:0", &["--preload"]);
    assert_eq!(server.exit(PATIENCE), 2);
    assert!(server.log().contains("preload is true"), "{}", server.log());
}

#[allow(clippy::print_stdout, reason = "figures for a run by hand")]
fn report(text: &str) {
    println!("{text}");
}
