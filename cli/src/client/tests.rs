use std::time::Duration;

use remuda_core::trust::Trusted;
use serde_json::json;

use super::doctor::{Machine, findings};
use super::table::status;
use crate::settings::Settings;

#[test]
fn status_prints_a_table() {
    let answer = [
        json!({ "arbiter": { "pid": 7, "version": "1.0", "uptime": 3723.4, "generation": 1, "phase": "serving",
            "backend": "mio", "listeners": ["http://127.0.0.1:80", "unix:a"], "workers": 2 } }),
        json!({ "worker": { "pid": 8, "slot": 0, "generation": 1, "phase": "running", "reason": null, "age": 61.0,
            "requests": 12, "connections": 3, "busy_handlers": 1, "heartbeat_age": 0.25, "rss": 5_000_000,
            "in_flight": 9, "busy": [{ "request": "GET /report", "for": 9.96, "on_loop": true, "doing": "running" },
                { "request": "GET /events", "for": 62.0, "on_loop": false, "doing": "responding" }] } }),
        json!({ "worker": { "pid": 10, "slot": 1, "generation": null, "phase": "draining", "reason": "scale-down",
            "age": 90061.0, "requests": 0, "connections": 0, "busy_handlers": 0, "heartbeat_age": null, "rss": null,
            "busy": [] } }),
        json!({ "ok": true }),
    ];
    let expected = "\
serving: pid 7, 1.0, up 1h02m, generation 1, 2 workers of mio, http://127.0.0.1:80 unix:a

PID  SLOT  GEN  PHASE                  AGE    REQUESTS  CONNS  BUSY  BEAT  RSS  SERVING
8    0     1    running                1m01s  12        3      1     0.2s  4M   GET /report for 10.0s, GET /events for 1m02s (responding), 7 more
10   1     -    draining (scale-down)  1d01h  0         0      0     -     -
";
    assert_eq!(status(&answer), expected);
}

#[test]
fn status_names_workers_that_have_no_keeper() {
    let said = |rescue: bool, phase: &str| {
        let answer = [
            json!({ "arbiter": { "pid": 7, "rescue": rescue } }),
            json!({ "worker": { "pid": 8, "slot": 0, "phase": "running", "keeper_pid": 9 } }),
            json!({ "worker": { "pid": 10, "slot": 1, "phase": phase, "keeper_pid": null } }),
        ];
        status(&answer).lines().filter(|line| line.starts_with('!')).map(str::to_owned).collect::<Vec<_>>()
    };
    let note = "! worker 10 has no keeper: its connections end with it if it dies";
    assert_eq!(said(true, "running"), [note]);
    assert_eq!(said(true, "booting"), [""; 0], "its keeper is started later");
    assert_eq!(said(false, "running"), [""; 0], "it is not to have one");
}

fn trusted(list: &str) -> Trusted {
    Trusted::parse(list.split(',')).unwrap()
}

fn found(change: impl FnOnce(&mut Settings, &mut Machine)) -> Vec<String> {
    let mut settings = Settings::default();
    settings.arbiter.worker.limits.keep_alive = Duration::from_secs(75);
    settings.arbiter.control_socket = Some("control".into());
    let mut machine = Machine { descriptors: Some(2048), somaxconn: Some(4096), ..Machine::default() };
    change(&mut settings, &mut machine);
    findings(&settings, &machine).into_iter().map(|finding| finding.what).collect()
}

#[test]
fn doctor_finds_each_problem_and_nothing_else() {
    assert_eq!(found(|_, _| {}), [""; 0]);
    let one = |change: fn(&mut Settings, &mut Machine), words: &str| {
        let found = found(change);
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    };
    one(|s, _| s.arbiter.worker.connections = 2000, "2048 descriptors");
    one(|s, _| s.arbiter.worker.connections = 0, "worker-connections is 0");
    one(|_, m| m.somaxconn = Some(128), "caps it at 128");
    one(|_, m| m.tasks = Some(4), "pids.max allows 4");
    one(|_, m| m.user_tasks = Some(4), "RLIMIT_NPROC allows 4");
    assert_eq!(found(|_, m| m.user_tasks = Some(9)), [""; 0], "all have room");
    let roots = found(|_, m| (m.is_root, m.user_tasks) = (true, Some(4)));
    assert!(roots.len() == 1 && roots[0].contains("as root"), "root is not bound by it: {roots:?}");
    one(|_, m| m.core_dump = Some(1), "core dumps are enabled");
    assert_eq!(
        found(|s, m| {
            s.arbiter.worker.rescue = false;
            (m.tasks, m.user_tasks, m.core_dump) = (Some(4), Some(4), Some(1));
        }),
        [""; 0],
        "without keepers none of them matters"
    );
    one(|s, m| (s.arbiter.reuse_port, m.migrates) = (true, Some(false)), "tcp_migrate_req is 0");
    assert_eq!(found(|s, m| (s.arbiter.reuse_port, m.migrates) = (true, Some(true))), [""; 0]);
    assert_eq!(found(|_, m| m.migrates = Some(false)), [""; 0], "it does not apply");
    one(|_, m| m.has_gate = Some(false), "neither a socket filter nor IP_MINTTL");
    one(|_, m| m.sees_handshakes = Some(false), "NETLINK_SOCK_DIAG");
    assert_eq!(found(|_, m| (m.has_gate, m.sees_handshakes) = (Some(true), Some(true))), [""; 0]);
    let unix = |s: &mut Settings| {
        s.arbiter.binds = vec![remuda_arbiter::Bind::Unix("app.sock".into())];
    };
    let nothing = |m: &mut Machine| (m.has_gate, m.sees_handshakes) = (Some(false), Some(false));
    assert_eq!(found(|s, m| (unix(s), nothing(m)).1), [""; 0], "it does not apply");
    one(|_, m| m.is_root = true, "root");
    one(|_, m| m.lost = vec!["the pidfile p of the running server is gone".into()], "is gone");
    one(|s, _| s.arbiter.control_socket = Some("/tmp/control".into()), "control-socket is /tmp/control");
    one(|s, _| s.arbiter.process.directory = Some("/var/tmp".into()), "control-socket is /var/tmp/control");
    one(|s, _| s.arbiter.binds = vec![remuda_arbiter::Bind::Unix("/tmp/app".into())], "bind is /tmp/app");
    one(|s, _| s.arbiter.worker.graceful_timeout = Duration::from_secs(90), "90 s");
    one(|s, _| s.arbiter.worker.graceful_timeout = Duration::ZERO, "cuts off all");
    one(|s, _| s.arbiter.worker.timeout = Duration::ZERO, "hangs");
    one(|s, _| s.arbiter.control_socket = None, "no control socket");
    let keep_for = |s: &mut Settings, seconds| {
        s.arbiter.worker.limits.keep_alive = Duration::from_secs(seconds);
        s.arbiter.worker.limits.proxies.forwarded = trusted("10.0.0.0/8");
    };
    assert_eq!(found(|s, _| keep_for(s, 15)), [""; 0]);
    assert!(found(|s, _| keep_for(s, 5))[0].contains("keep-alive is 5 s"));
    let on_unix = |s: &mut Settings| {
        s.arbiter.worker.limits.keep_alive = Duration::from_secs(5);
        s.arbiter.binds = vec![remuda_arbiter::Bind::Unix("a".into())];
    };
    assert!(found(|s, _| on_unix(s))[0].contains("keep-alive is 5 s"));
    for quiet in [
        |s: &mut Settings| {
            s.arbiter.worker.limits.proxies.forwarded = trusted("127.0.0.0/8,::1,unix");
            s.arbiter.worker.limits.keep_alive = Duration::from_secs(5);
        },
        |s: &mut Settings| {
            s.arbiter.worker.limits.proxies.forwarded = trusted("*");
            s.arbiter.worker.limits.keep_alive = Duration::from_secs(20);
        },
        |s: &mut Settings| {
            s.arbiter.worker.limits.proxies.forwarded = trusted("*");
            s.arbiter.worker.limits.proxies.proxy_protocol = remuda_core::proxy::ProxyProtocol::V2;
            s.arbiter.worker.limits.keep_alive = Duration::from_secs(5);
        },
    ] {
        assert_eq!(found(|s, _| quiet(s)), [""; 0]);
    }
    one(|s, _| s.arbiter.lameduck = Duration::from_secs(9), "cannot see that the server is about to stop");
    one(
        |s, _| s.arbiter.admin = Some(remuda_arbiter::Bind::Inet(([0, 0, 0, 0], 9).into())),
        "access control",
    );
    one(|s, _| s.log_level = tracing::Level::DEBUG, "log-level is debug");
    let late = |s: &mut Settings| s.arbiter.worker.limits.request_timeout = Duration::from_secs(30);
    assert_eq!(found(|s, _| late(s)), [""; 0], "other backends have a free thread");
    #[cfg(feature = "sync")]
    one(
        |s, _| {
            s.backend = Some(std::sync::Arc::new(remuda_sync::Sync));
            s.arbiter.worker.limits.request_timeout = Duration::from_secs(30);
        },
        "request-timeout",
    );
    let unknown = found(|_, m| (m.descriptors, m.somaxconn) = (None, None));
    assert_eq!(unknown, [""; 0], "an unknown value is no finding");
}
