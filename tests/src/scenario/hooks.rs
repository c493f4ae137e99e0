//! Hooks: which are called, when, how often, and in which process.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::Harness;
use crate::client::PATIENCE;
use crate::process::{Process, Server, until};

/// A line of the fixture's journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// The hook's name.
    pub(super) what: String,
    /// The process in which the hook was called.
    pub(super) pid: u64,
    /// The facts the hook was called with.
    pub(super) facts: String,
}

/// A harness whose hooks write a journal when they are called, and misbehave as `told`.
pub(super) fn with_journal(harness: &Harness, told: &str) -> Harness {
    harness.clone().with_variable("FIXTURE_HOOKS", told)
}

/// The entries of the journal, in order.
pub(super) fn journal(server: &Server) -> Vec<Entry> {
    let text = fs::read_to_string(server.dir().join("journal")).unwrap_or_default();
    let entry = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let (what, pid) = (words.next()?, words.next()?.parse().ok()?);
        Some(Entry { what, pid, facts: words.next()? })
    };
    text.lines().map(|line| entry(line).unwrap_or_else(|| panic!("{line:?} is no entry"))).collect()
}

/// The indexes of entries about `what` with `words` among their facts.
fn places(journal: &[Entry], what: &str, words: &str) -> Vec<usize> {
    let fits = |entry: &Entry| entry.what == what && entry.facts.contains(words);
    (0..journal.len()).filter(|place| fits(&journal[*place])).collect()
}

/// The index of the only such entry.
#[track_caller]
fn place(journal: &[Entry], what: &str, words: &str) -> usize {
    match places(journal, what, words)[..] {
        [place] => place,
        ref other => panic!("{what} {words} is there {} times: {journal:#?}", other.len()),
    }
}

/// Waits until there are `n` such entries, and returns the journal.
#[track_caller]
pub(super) fn wait(server: &Server, n: usize, what: &str, words: &str) -> Vec<Entry> {
    let found = until(PATIENCE, || Some(journal(server)).filter(|all| places(all, what, words).len() >= n));
    found.unwrap_or_else(|| panic!("{what} {words} is not there {n} times: {:#?}", journal(server)))
}

#[track_caller]
fn stop(server: &mut Server) -> Vec<Entry> {
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    journal(server)
}

/// Asserts that the hooks of one worker's life are in order, each in the right process.
#[track_caller]
fn lives(journal: &[Entry], arbiter: u64, worker: u64, slot: u16, generation: u32, reason: &str) {
    let who = format!("worker={worker} slot={slot} generation={generation}");
    let [born, built, left, reaped] =
        ["post_fork", "post_worker_init", "worker_exit", "child_exit"].map(|what| place(journal, what, &who));
    assert!(born < built && built < left && left < reaped, "{who}: {journal:#?}");
    assert!([born, built, left].iter().all(|at| journal[*at].pid == worker), "{who}: {journal:#?}");
    assert_eq!(journal[reaped].pid, arbiter);
    let place = format!("slot={slot} generation={generation}");
    assert!(places(journal, "pre_fork", &place).first().is_some_and(|before| *before < born), "{journal:#?}");
    assert_eq!(journal[left].facts, format!("{who} status=0 reason={reason}"));
    let facts = format!("{who} status=Some(0) signal=None replaced=false reason={reason}");
    assert_eq!(journal[reaped].facts, facts);
}

pub(crate) fn hooks_are_called_in_the_right_process_and_in_order(harness: &Harness) {
    let mut server = with_journal(harness, "").serve(&["-w", "2"]);
    let arbiter = server.arbiter().id();
    let workers: Vec<_> = server.workers(2).iter().map(Process::id).collect();
    wait(&server, 1, "when_ready", "");
    let all = stop(&mut server);
    for worker in workers {
        let slot = all[place(&all, "post_fork", &format!("worker={worker} "))].facts.contains("slot=1");
        lives(&all, arbiter, worker, slot.into(), 1, "Stop");
        // The application does not exist before its worker does.
        let [born, ready] =
            ["post_fork", "post_worker_init"].map(|what| place(&all, what, &format!("worker={worker} ")));
        let built = all.iter().position(|entry| entry.what == "build" && entry.pid == worker);
        assert!(built.is_some_and(|built| born < built && built < ready), "{all:#?}");
    }
    let start = place(&all, "on_starting", "workers=2 old_arbiter=false");
    let ready = place(&all, "when_ready", "workers=2 old_arbiter=false");
    let end = place(&all, "on_exit", &format!("arbiter={arbiter} status=0"));
    assert_eq!((start, end), (0, all.len() - 1));
    assert!(places(&all, "post_worker_init", "").iter().all(|built| *built < ready), "{all:#?}");
    for what in ["on_starting", "pre_fork", "when_ready", "child_exit", "on_exit"] {
        assert!(places(&all, what, "").iter().all(|at| all[*at].pid == arbiter), "{what}: {all:#?}");
    }
    assert_eq!(all.len(), 3 + 2 * 6, "{all:#?}");
}

pub(crate) fn hooks_report_a_killed_and_an_added_worker(harness: &Harness) {
    let mut server = with_journal(harness, "").serve(&[]);
    wait(&server, 1, "when_ready", "");
    let killed = server.worker();
    killed.signal(Signal::KILL);
    wait(&server, 2, "post_worker_init", "");
    server.arbiter().signal(Signal::TTIN);
    wait(&server, 3, "post_worker_init", "");
    server.arbiter().signal(Signal::TTOU);
    wait(&server, 1, "child_exit", "reason=ScaleDown");
    let all = stop(&mut server);
    let who = format!("worker={} slot=0 generation=1", killed.id());
    let died = place(&all, "child_exit", &who);
    assert_eq!(all[died].facts, format!("{who} status=None signal=Some(9) replaced=true reason=none"));
    assert!(places(&all, "worker_exit", &who).is_empty(), "a killed worker calls no hook");
    let [first, second] = places(&all, "pre_fork", "slot=0 generation=1")[..] else { panic!("{all:#?}") };
    assert!(first < died && died < second, "{all:#?}");
    let (more, less) =
        (place(&all, "nworkers_changed", "from=1 to=2"), place(&all, "nworkers_changed", "from=2 to=1"));
    assert!(second < more && more < place(&all, "pre_fork", "slot=1"), "{all:#?}");
    assert!(less < place(&all, "child_exit", "reason=ScaleDown"), "{all:#?}");
    assert_eq!(places(&all, "when_ready", "").len(), 1, "a server becomes ready once");
}

pub(crate) fn hooks_report_a_recycling(harness: &Harness) {
    let args = ["--max-requests", "1", "--max-requests-jitter", "0"];
    let mut server = with_journal(harness, "").serve(&args);
    let (arbiter, first) = (server.arbiter().id(), server.worker().id());
    server.connect().get("/");
    wait(&server, 1, "child_exit", "reason=RecycleRequests");
    let all = stop(&mut server);
    lives(&all, arbiter, first, 0, 1, "RecycleRequests");
    // The successor was ready before the old worker left.
    let [_, second] = places(&all, "post_worker_init", "slot=0 generation=1")[..] else { panic!("{all:#?}") };
    assert!(second < place(&all, "worker_exit", "reason=RecycleRequests"), "{all:#?}");
}

pub(crate) fn hooks_report_a_reload(harness: &Harness) {
    let mut server = with_journal(harness, "").serve(&[]);
    let (arbiter, first) = (server.arbiter().id(), server.worker().id());
    wait(&server, 1, "when_ready", "");
    server.arbiter().signal(Signal::HUP);
    wait(&server, 1, "child_exit", "reason=Reload");
    let second = server.worker().id();
    let all = stop(&mut server);
    lives(&all, arbiter, first, 0, 1, "Reload");
    lives(&all, arbiter, second, 0, 2, "Stop");
    let reload = place(&all, "on_reload", "generation=2");
    assert_eq!(all[reload].pid, arbiter);
    assert!(reload < place(&all, "pre_fork", "slot=0 generation=2"), "{all:#?}");
    assert!(places(&all, "nworkers_changed", "").is_empty(), "{all:#?}");
}

pub(crate) fn hooks_report_an_upgrade(harness: &Harness) {
    let mut server = with_journal(harness, "").serve(&[]);
    let (old, first) = (server.arbiter().id(), server.worker().id());
    wait(&server, 1, "when_ready", "");
    server.upgrade();
    let (new, second) = (server.arbiter().id(), server.worker().id());
    let all = stop(&mut server);
    lives(&all, old, first, 0, 1, "Upgrade");
    lives(&all, new, second, 0, 1, "Stop");
    // The new arbiter is ready before the old one knows. From then on the two act independently.
    let (begun, ended) = (format!("arbiter={old}"), format!("arbiter={old} status=0"));
    let of_old: &[_] = &[
        ("on_starting", "old_arbiter=false", old),
        ("pre_exec", &begun, old),
        ("on_starting", "old_arbiter=true", new),
        ("post_worker_init", &format!("worker={second} "), second),
        ("worker_exit", "reason=Upgrade", first),
        ("on_exit", &ended, old),
    ];
    let of_new: &[_] = &[
        ("on_starting", "old_arbiter=true", new),
        ("when_ready", "old_arbiter=true", new),
        ("worker_exit", "reason=Stop", second),
        ("on_exit", &format!("arbiter={new} status=0"), new),
    ];
    for order in [of_old, of_new] {
        let places = order.iter().map(|(what, words, pid)| {
            let at = place(&all, what, words);
            assert_eq!(all[at].pid, *pid, "{what}: {all:#?}");
            at
        });
        assert!(places.is_sorted(), "{order:?}: {all:#?}");
    }
}

pub(crate) fn a_hook_that_panics_does_not_end_the_server(harness: &Harness) {
    let panicking = [
        "on_starting",
        "pre_fork",
        "when_ready",
        "nworkers_changed",
        "on_reload",
        "worker_exit",
        "child_exit",
        "pre_exec",
        "on_exit",
    ];
    let mut server = with_journal(harness, &panicking.join(",")).serve(&[]);
    wait(&server, 1, "when_ready", "");
    server.worker().signal(Signal::KILL);
    wait(&server, 2, "post_worker_init", "");
    server.arbiter().signal(Signal::TTIN);
    wait(&server, 3, "post_worker_init", "");
    server.arbiter().signal(Signal::HUP);
    wait(&server, 2, "worker_exit", "status=0 reason=Reload");
    server.connect().get("/");
    assert!(server.logs("reloaded: all older workers were told to drain", PATIENCE));
    server.upgrade();
    server.connect().get("/");
    stop(&mut server);
    for hook in panicking {
        let said = format!("the hook {hook} panicked: {hook} was told to");
        assert!(server.log().contains(&said), "{hook} did not panic, or the panic was not logged");
    }
}

pub(crate) fn a_slow_hook_is_named(harness: &Harness) {
    let mut server = with_journal(harness, "nworkers_changed:slow").serve(&[]);
    wait(&server, 1, "when_ready", "");
    server.arbiter().signal(Signal::TTIN);
    assert!(server.logs("the hook nworkers_changed took", PATIENCE), "the slow hook is not logged");
    // Events that arrived meanwhile are handled afterwards.
    wait(&server, 2, "post_worker_init", "");
    stop(&mut server);
}

pub(crate) fn a_signal_while_the_arbiter_exits_does_not_change_its_status(harness: &Harness) {
    use Signal as S;
    let all =
        [S::TERM, S::INT, S::QUIT, S::HUP, S::USR1, S::USR2, S::TTIN, S::TTOU, S::WINCH, S::PIPE, S::ALARM];
    // In the last hook, which takes a while.
    let mut server = with_journal(harness, "on_exit:slow").serve(&[]);
    server.arbiter().signal(Signal::TERM);
    wait(&server, 1, "on_exit", "status=0");
    all.into_iter().for_each(|signal| server.arbiter().signal(signal));
    assert_eq!(server.exit(PATIENCE), 0);

    // And at every moment after it, up to the end.
    for signal in [S::TERM, S::INT, S::HUP, S::USR1, S::USR2, S::TTIN, S::TTOU] {
        let mut server = with_journal(harness, "").serve(&[]);
        server.arbiter().signal(Signal::TERM);
        wait(&server, 1, "on_exit", "status=0");
        while !server.arbiter().wait_gone(Duration::ZERO) {
            server.arbiter().signal(signal);
        }
        assert_eq!(server.exit(PATIENCE), 0, "{signal:?}");
    }
}

pub(crate) fn a_hook_that_panics_in_a_booting_worker_ends_its_start(harness: &Harness) {
    for (hook, status, said) in [
        ("post_fork", 3, "the hook post_fork panicked"),
        ("post_worker_init", 4, "the application failed to load"),
    ] {
        let mut server = with_journal(harness, hook).launch("127.0.0.1:0", &[]);
        assert_eq!(server.exit(PATIENCE), status, "{hook}");
        assert!(server.log().contains(said), "{}", server.log());
        // The worker existed, and calls `worker_exit` before it ends.
        let all = journal(&server);
        let left = place(&all, "worker_exit", &format!("status={status} reason="));
        assert!(place(&all, hook, "") < left, "{all:#?}");
    }
}
