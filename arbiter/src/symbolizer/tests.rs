use std::fs;

use super::*;

/// A frame with a name and a file as in debug information.
fn frames(all: &[(&str, &str)]) -> Vec<Frame> {
    let frame = |(name, file): &(&str, &str)| {
        let file = Some(*file).filter(|file| !file.is_empty());
        Frame { name: (*name).to_owned(), file: file.map(PathBuf::from), line: file.map(|_| 7) }
    };
    all.iter().map(frame).collect()
}

fn named(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(Frame::to_string).collect()
}

/// The stack of a blocking handler. Names with line tables only lack modules.
const HANGING: &[(&str, &str)] = &[
    ("remuda_core::worker::sys::say_where", "/r/core/src/worker/sys.rs"),
    ("on_abort", "/r/core/src/worker/sys.rs"),
    ("0x7fa4708da050", ""),
    ("__GI___clock_nanosleep", "./sysdeps/unix/sysv/linux/clock_nanosleep.c"),
    ("std::thread::functions::sleep", "/rustc/5980/library/std/src/thread/functions.rs"),
    ("run<shop::Query>", "/home/me/.cargo/registry/src/index.crates.io-1949/db-client-0.3.1/src/query.rs"),
    ("{closure#0}", "/home/me/shop/src/cart/total.rs"),
    ("<shop::Shop as remuda_core::app::Handler>::call", "/home/me/shop/src/main.rs"),
    ("call_once", "/rustc/5980/library/core/src/ops/function.rs"),
    ("{closure#1}", "/home/me/.cargo/registry/src/index.crates.io-1949/axum-0.8.4/src/routing/mod.rs"),
    ("answer<remuda_core::app::blocking::Unshared>", "/r/core/src/app/blocking.rs"),
    ("remuda_core::pump::drive", "/r/core/src/pump.rs"),
    ("{closure#0}", "/r/arbiter/src/run/spawn.rs"),
    ("std::sys::backtrace::__rust_begin_short_backtrace", "/rustc/5980/library/std/src/sys/backtrace.rs"),
    ("main", "/home/me/shop/src/main.rs"),
];

fn own() -> Own {
    Own { workspace: Some("/r".into()) }
}

#[test]
fn an_address_resolves_to_its_function() {
    let here = an_address_resolves_to_its_function as *const () as u64;
    let names = named(&frames_at(here + 1));
    assert!(names.iter().any(|name| name.contains("an_address_resolves")), "{names:?}");
    assert_eq!(named(&frames_at(1)), ["0x1"]);
    let Own { workspace } = Own::here();
    let is_ours = |path: &PathBuf| path.join("arbiter/src/symbolizer.rs").exists();
    assert!(workspace.as_ref().is_some_and(is_ours), "{workspace:?}");
}

#[test]
fn a_stack_begins_at_the_interruption_and_ends_at_the_thread() {
    let hanging: Vec<_> =
        interrupted(frames(HANGING)).into_iter().map(|frame| own().with_module(frame)).collect();
    assert_eq!(hanging.first().unwrap().to_string(), "__GI___clock_nanosleep (clock_nanosleep.c:7)");
    assert_eq!(
        hanging.last().unwrap().to_string(),
        "remuda_arbiter::run::spawn::{closure#0} (src/run/spawn.rs:7)"
    );
    let unknown = interrupted(frames(&[("0x1", ""), ("0x2", "")]));
    assert_eq!(named(&unknown), ["0x1", "0x2"], "without names nothing is left out");
}

#[test]
fn application_frames_are_selected_with_their_modules() {
    let frames: Vec<_> =
        interrupted(frames(HANGING)).into_iter().map(|frame| own().with_module(frame)).collect();
    let told: Vec<_> = told(&frames, &own()).map(Frame::to_string).collect();
    assert_eq!(
        told,
        [
            "db_client::query::run (src/query.rs:7)",
            "shop::cart::total::{closure#0} (src/cart/total.rs:7)",
            "<shop::Shop as remuda_core::app::Handler>::call (src/main.rs:7)",
        ]
    );
}

#[test]
fn without_debug_information_names_decide() {
    let names = HANGING.iter().map(|(name, _)| (*name, "")).collect::<Vec<_>>();
    let frames = interrupted(frames(&names));
    let told: Vec<_> = told(&frames, &Own { workspace: None }).map(Frame::to_string).collect();
    assert_eq!(told, ["<shop::Shop as remuda_core::app::Handler>::call"]);
}

#[test]
fn folders_of_an_application_are_not_taken_for_the_server() {
    for (file, is_application) in [
        ("/r/core/src/session.rs", false),
        ("/r/workers/tokio/src/lib.rs", false),
        ("/r/cli/src/into_app.rs", false),
        ("/r/cli/src/demo/future.rs", true),
        ("/r/examples/chat/src/main.rs", true),
        ("/home/me/shop/core/src/session.rs", true),
        ("/x/registry/src/i/remuda-core-0.1.0/src/session.rs", false),
        ("/x/registry/src/i/remuda-0.1.0/src/server.rs", false),
        ("/x/registry/src/i/remuda-0.1.0/src/demo.rs", true),
        ("/x/registry/src/i/tokio-1.48.0/src/runtime/park.rs", false),
        ("/x/registry/src/i/tokio-postgres-0.7.1/src/client.rs", true),
        ("/rustc/5980/library/alloc/src/boxed.rs", false),
    ] {
        let frame = &frames(&[("poll", file)])[0];
        assert_eq!(own().is_application(frame), is_application, "{file}");
    }
}

/// A thread in one of these crates would be taken for one in the application, and the loop above it
/// would be missing.
#[test]
fn crates_below_the_server_are_not_taken_for_an_application() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut seen = 0;
    for folder in ["arbiter", "core", "workers/async-std", "workers/mio", "workers/smol", "workers/tokio"] {
        let manifest = fs::read_to_string(top.join(folder).join("Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
        let lines = rest.lines().take_while(|line| !line.starts_with('['));
        for line in lines.filter(|line| line.starts_with(char::is_alphabetic)) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            let frame = &frames(&[("wait", &format!("/x/registry/src/i/{name}-1.2.3/src/lib.rs"))])[0];
            assert!(!own().is_application(frame), "{folder} depends on {name}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn a_thread_outside_the_application_shows_the_server() {
    let frames = frames(&[
        ("epoll_wait", "./sysdeps/unix/sysv/linux/epoll_wait.c"),
        ("core::result::Result<T,E>::map", "/rustc/5980/library/core/src/result.rs"),
        ("mio::poll::Poll::poll", "/x/registry/src/i/mio-1.1.0/src/poll.rs"),
        ("send", "/x/registry/src/i/rustix-1.1.2/src/net/send_recv/mod.rs"),
        ("serve<remuda_mio::Watched>", "/r/core/src/worker/poll_loop.rs"),
        ("{closure#0}", "/r/workers/async-std/src/lib.rs"),
        ("start<remuda::Demo>", "/r/cli/src/server.rs"),
    ]);
    let frames: Vec<_> = frames.into_iter().map(|frame| own().with_module(frame)).collect();
    let told: Vec<_> = told(&frames, &own()).map(Frame::to_string).collect();
    assert_eq!(
        told,
        [
            "epoll_wait (epoll_wait.c:7)",
            "mio::poll::Poll::poll (src/poll.rs:7)",
            "rustix::net::send_recv::send (src/net/send_recv/mod.rs:7)",
            "remuda_core::worker::poll_loop::serve (src/worker/poll_loop.rs:7)",
            "remuda_async_std::{closure#0} (src/lib.rs:7)",
            "remuda::server::start (src/server.rs:7)",
        ]
    );
}
