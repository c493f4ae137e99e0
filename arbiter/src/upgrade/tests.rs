use std::os::unix::fs::PermissionsExt as _;

use tempfile::tempdir;

use super::*;

#[test]
fn the_variable_lists_the_inheritance() {
    let passed = Passed::read("1 4711 2,1 9 5 6 7 8:64768:1311 + 10").unwrap();
    let listeners = vec![(7, None), (8, Some((64768, 1311)))];
    assert_eq!(
        passed,
        Passed {
            pid: "4711",
            records: "2,1".parse().unwrap(),
            socket: 9,
            queue: [5, 6],
            listeners,
            for_operators: vec![(10, None)]
        }
    );
    assert_eq!(Passed::read("1 4711 1 9 5 6 +").unwrap().listeners, []);
}

#[test]
fn a_value_of_another_version_is_refused() {
    for value in [
        "",
        "2 4711 1 9 5 6",
        "1 4711 1 9 5",
        "1 4711 1 9 5 six",
        "1 4711 1 9 5 6 7:1",
        "1 4711 1 9 5 6 7:1:2:3",
        "1 4711 1 9 5 6 + a",
        "1 4711 one 9 5 6",
    ] {
        assert_eq!(Passed::read(value), None, "{value}");
    }
}

#[test]
fn the_executable_is_resolved_when_it_is_run() {
    let dir = tempdir().unwrap();
    let program = dir.path().join("program");
    fs::write(&program, "").unwrap();
    assert_eq!(find(Path::new("./program"), dir.path()), Some(dir.path().join("./program")));
    assert_eq!(find(&program, Path::new("/")), Some(program.clone()));
    assert_eq!(find(Path::new("gone/program"), dir.path()), None);
    // A bare name is looked up as by a shell.
    let shell = find(Path::new("sh"), dir.path()).unwrap();
    assert!(shell.is_absolute() && shell.metadata().unwrap().permissions().mode() & 0o111 != 0);
    assert_eq!(find(Path::new("program"), dir.path()), None, "the directory is not searched");
}

fn alone() -> Upgrade {
    let (upgrade, inheritance) = Upgrade::of_process(Records::default()).unwrap();
    assert!(inheritance.is_none() && upgrade.is_alone());
    upgrade
}

#[test]
fn messages_are_received_one_at_a_time_and_the_end_once() {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (to_new, to_old) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (mut old, mut new) = (alone(), alone());
    old.new = Some(NewArbiter { socket: Some(to_new) });
    (new.old, new.shares_queue) = (Some(to_old), true);
    assert!(old.hear().is_none() && new.hear().is_none());
    new.tell_ready(&[7, 8]);
    assert!(matches!(old.hear(), Some(Word::Ready { receives: true, kept }) if kept == [7, 8]));
    new.shares_queue = false;
    new.tell_ready(&[]);
    assert!(matches!(old.hear(), Some(Word::Ready { receives: false, kept }) if kept.is_empty()));
    assert!(old.hear().is_none() && !old.is_alone());

    drop(old);
    assert!(matches!(new.hear(), Some(Word::OldArbiterGone)));
    assert!(new.hear().is_none() && new.is_alone());
}

#[test]
fn a_new_arbiter_that_closes_its_socket_is_not_forgotten() {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (to_new, to_old) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let mut old = alone();
    old.new = Some(NewArbiter { socket: Some(to_new) });
    assert_eq!(old.interests().count(), 1);
    drop(to_old);
    assert!(old.hear().is_none());
    assert_eq!(old.interests().count(), 0);
    assert!(!old.is_alone());
}
