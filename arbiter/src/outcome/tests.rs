use super::*;

#[test]
fn every_outcome_has_its_status_and_a_sentence() {
    let stopped = |reason, cut| Outcome::Stopped { reason, cut };
    let boot_failed = |status| Outcome::BootFailed { status, message: "no database".into() };
    for (outcome, status, sentence) in [
        (stopped(Reason::Stop, false), 0, "stopped"),
        (stopped(Reason::Stop, true), 6, "stopped; not all work was finished"),
        (stopped(Reason::QuickStop, true), 0, "stopped; not all work was finished"),
        (boot_failed(3), 3, "a worker failed to boot: no database"),
        (boot_failed(4), 4, "the application failed to load: no database"),
        (BindError::Nowhere.into(), 5, "no address to listen on; name at least one"),
        (Outcome::internal("fork", &io::Error::other("no memory")), 1, "cannot fork: no memory"),
    ] {
        assert_eq!(outcome.status(), status);
        assert_eq!(outcome.to_string(), sentence);
    }
}
