use std::time::Duration;

use serde_json::json;

use super::doctor::{Machine, findings};
use super::table::status;
use crate::settings::Settings;

#[test]
fn status_is_a_table_for_people() {
    let answer = [
        json!({ "arbiter": { "pid": 7, "version": "1.0", "uptime": 3723.4, "generation": 1, "phase": "serving",
            "backend": "mio", "listeners": ["http://127.0.0.1:80", "unix:a"], "workers": 2 } }),
        json!({ "worker": { "pid": 8, "slot": 0, "generation": 1, "phase": "running", "reason": null, "age": 61.0,
            "requests": 12, "connections": 3, "busy_handlers": 1, "heartbeat_age": 0.25, "rss": 5_000_000,
            "busy": [{ "request": "GET /report", "for": 9.96, "on_loop": true }] } }),
        json!({ "worker": { "pid": 10, "slot": 1, "generation": null, "phase": "draining", "reason": "scale-down",
            "age": 90061.0, "requests": 0, "connections": 0, "busy_handlers": 0, "heartbeat_age": null, "rss": null,
            "busy": [] } }),
        json!({ "ok": true }),
    ];
    let expected = "\
serving: pid 7, 1.0, up 1h02m, generation 1, 2 workers of mio, http://127.0.0.1:80 unix:a

PID  SLOT  GEN  PHASE                  AGE    REQUESTS  CONNS  BUSY  BEAT  RSS  SERVING
8    0     1    running                1m01s  12        3      1     0.2s  4M   GET /report for 10.0s
10   1     -    draining (scale-down)  1d01h  0         0      0     -     -
";
    assert_eq!(status(&answer), expected);
}

fn found(change: impl FnOnce(&mut Settings, &mut Machine)) -> Vec<String> {
    let mut settings = Settings::default();
    settings.arbiter.control_socket = Some("control".into());
    let mut machine = Machine { descriptors: Some(2048), somaxconn: Some(4096), ..Machine::default() };
    change(&mut settings, &mut machine);
    findings(&settings, &machine).into_iter().map(|finding| finding.what).collect()
}

#[test]
fn doctor_finds_what_will_hurt_and_nothing_else() {
    assert_eq!(found(|_, _| {}), [""; 0]);
    let one = |change: fn(&mut Settings, &mut Machine), words: &str| {
        let found = found(change);
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    };
    one(|s, _| s.arbiter.worker.connections = 2000, "2048 descriptors");
    one(|s, _| s.arbiter.worker.connections = 0, "worker-connections is 0");
    one(|_, m| m.somaxconn = Some(128), "cuts it to 128");
    one(|s, m| (s.arbiter.reuse_port, m.migrates) = (true, Some(false)), "tcp_migrate_req is 0");
    assert_eq!(found(|s, m| (s.arbiter.reuse_port, m.migrates) = (true, Some(true))), [""; 0]);
    assert_eq!(found(|_, m| m.migrates = Some(false)), [""; 0], "it is of no account");
    one(|_, m| m.is_root = true, "root");
    one(|s, _| s.arbiter.worker.graceful_timeout = Duration::from_secs(90), "90 s");
    one(|s, _| s.arbiter.worker.graceful_timeout = Duration::ZERO, "cuts off all");
    one(|s, _| s.arbiter.worker.timeout = Duration::ZERO, "hangs");
    one(|s, _| s.arbiter.control_socket = None, "no control socket");
    one(|s, _| s.arbiter.lameduck = Duration::from_secs(9), "nobody sees");
    one(
        |s, _| s.arbiter.admin = Some(remuda_arbiter::Bind::Inet(([0, 0, 0, 0], 9).into())),
        "access control",
    );
    one(|s, _| s.log_level = tracing::Level::DEBUG, "log-level is debug");
    let late = |s: &mut Settings| s.arbiter.worker.limits.request_timeout = Duration::from_secs(30);
    assert_eq!(found(|s, _| late(s)), [""; 0], "others have a thread that is free");
    #[cfg(feature = "sync")]
    one(
        |s, _| {
            s.backend = Some(std::sync::Arc::new(remuda_sync::Sync));
            s.arbiter.worker.limits.request_timeout = Duration::from_secs(30);
        },
        "request-timeout",
    );
    let unknown = found(|_, m| (m.descriptors, m.somaxconn) = (None, None));
    assert_eq!(unknown, [""; 0], "what is not known is not said");
}
