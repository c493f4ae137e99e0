use std::os::unix::fs::PermissionsExt as _;

use tempfile::tempdir;

use super::*;

#[test]
fn the_variable_says_what_is_passed_on() {
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
fn what_another_version_has_written_or_nobody_is_refused() {
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
fn the_executable_is_what_its_path_leads_to_when_it_is_run() {
    let dir = tempdir().unwrap();
    let program = dir.path().join("program");
    fs::write(&program, "").unwrap();
    assert_eq!(find(Path::new("./program"), dir.path()), Some(dir.path().join("./program")));
    assert_eq!(find(&program, Path::new("/")), Some(program.clone()));
    assert_eq!(find(Path::new("gone/program"), dir.path()), None);
    // A name alone is looked up as a shell would.
    let shell = find(Path::new("sh"), dir.path()).unwrap();
    assert!(shell.is_absolute() && shell.metadata().unwrap().permissions().mode() & 0o111 != 0);
    assert_eq!(find(Path::new("program"), dir.path()), None, "the directory is not searched");
}

fn alone() -> Upgrade {
    let (upgrade, legacy) = Upgrade::of_process(Records::default()).unwrap();
    assert!(legacy.is_none() && upgrade.is_alone());
    upgrade
}

#[test]
fn words_are_heard_one_at_a_time_and_the_end_once() {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (elder, heir) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (mut old, mut new) = (alone(), alone());
    old.heir = Some(Heir { socket: Some(elder) });
    (new.elder, new.shares_queue) = (Some(heir), true);
    assert!(old.hear().is_none() && new.hear().is_none());
    new.tell_ready(&[7, 8]);
    assert!(matches!(old.hear(), Some(Word::Ready { receives: true, kept }) if kept == [7, 8]));
    new.shares_queue = false;
    new.tell_ready(&[]);
    assert!(matches!(old.hear(), Some(Word::Ready { receives: false, kept }) if kept.is_empty()));
    assert!(old.hear().is_none() && !old.is_alone());

    drop(old);
    assert!(matches!(new.hear(), Some(Word::ElderGone)));
    assert!(new.hear().is_none() && new.is_alone());
}

#[test]
fn an_heir_that_closes_its_end_is_not_listened_to_any_more_and_not_gone() {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (elder, heir) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let mut old = alone();
    old.heir = Some(Heir { socket: Some(elder) });
    assert_eq!(old.interests().count(), 1);
    drop(heir);
    assert!(old.hear().is_none());
    assert_eq!(old.interests().count(), 0);
    assert!(!old.is_alone());
}
