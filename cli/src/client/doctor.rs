//! `doctor`: looks for what will hurt in production, and says what to do. It changes nothing and starts nothing.
//!
//! Only what can be known for certain is said; each check is a function of the settings and of what the machine says of
//! itself.

use std::io::{self, Write as _};
use std::time::Duration;
use std::{env, fs};

use remuda_arbiter::Bind;
use tracing::Level;

use crate::settings::Settings;

/// Says what was found. The exit status is 0 if that is nothing, 1 otherwise.
pub(crate) fn examine(settings: &Settings) -> u8 {
    let found = findings(settings, &Machine::this());
    let text = match found.is_empty() {
        true => "nothing was found that will hurt\n".to_owned(),
        false => found.iter().map(|Finding { what, advice }| format!("- {what}\n  {advice}\n")).collect(),
    };
    // Where nobody reads, the status says it.
    let _ = io::stdout().write_all(text.as_bytes());
    u8::from(!found.is_empty())
}

/// What will hurt, and what to do about it.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) what: String,
    pub(super) advice: String,
}

/// What the machine says of itself; none where it does not say it.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// Descriptors that a process may open.
    pub(super) descriptors: Option<u64>,
    /// The longest queue of a listener.
    pub(super) somaxconn: Option<u64>,
    /// Whether what waits at a listener that ends may move to another one of its address.
    pub(super) migrates: Option<bool>,
    /// Whether this process is root's.
    pub(super) is_root: bool,
    /// Whether systemd has started it.
    pub(super) systemd: bool,
}

impl Machine {
    fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let column = |text: &str, name: &str, column: usize| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(column)?.parse().ok()
        };
        Self {
            descriptors: column(&read("/proc/self/limits"), "Max open files", 0),
            somaxconn: read("/proc/sys/net/core/somaxconn").trim().parse().ok(),
            migrates: read("/proc/sys/net/ipv4/tcp_migrate_req").trim().parse::<u8>().ok().map(|n| n != 0),
            is_root: column(&read("/proc/self/status"), "Uid:", 1) == Some(0),
            systemd: ["INVOCATION_ID", "NOTIFY_SOCKET"].iter().any(|name| env::var_os(name).is_some()),
        }
    }
}

/// Descriptors that a worker has besides its connections: listeners, pipes, files of the application.
const SPARE: u64 = 64;

/// How long systemd waits for a stop if the unit does not say (systemd.service(5), `TimeoutStopSec`).
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn findings(settings: &Settings, machine: &Machine) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut note = |is: bool, what: String, advice: &str| {
        if is {
            found.push(Finding { what, advice: advice.to_owned() });
        }
    };
    let arbiter = &settings.arbiter;
    let worker = &arbiter.worker;
    let connections = worker.connections as u64;
    if let Some(descriptors) = machine.descriptors {
        note(
            connections + SPARE > descriptors,
            format!("a worker may have {connections} connections open, but only {descriptors} descriptors"),
            "raise the limit (ulimit -n, LimitNOFILE=), or lower worker-connections",
        );
        note(
            connections == 0,
            format!(
                "worker-connections is 0: nothing but the limit of {descriptors} descriptors stops a worker"
            ),
            "set worker-connections below the limit, so that connections wait in the queue and not in a full worker",
        );
    }
    if let Some(somaxconn) = machine.somaxconn {
        note(
            u64::from(arbiter.backlog) > somaxconn,
            format!(
                "backlog is {}, but the kernel cuts it to {somaxconn} (net.core.somaxconn)",
                arbiter.backlog
            ),
            "raise net.core.somaxconn by sysctl, or lower backlog",
        );
    }
    note(
        arbiter.reuse_port && machine.migrates == Some(false),
        "reuse-port is set, and net.ipv4.tcp_migrate_req is 0: clients that connect while a listener ends, as at TTOU, \
         have to begin anew"
            .to_owned(),
        "set net.ipv4.tcp_migrate_req to 1 by sysctl",
    );
    note(
        machine.is_root && arbiter.process.user.is_none(),
        "this would run as root, with its workers and the application".to_owned(),
        "set user, or start it as a user of its own; ports below 1024 need CAP_NET_BIND_SERVICE only",
    );
    let stop = arbiter.lameduck + worker.graceful_timeout;
    let by = if machine.systemd { "systemd, which has started this," } else { "systemd" };
    note(
        stop >= SYSTEMD_PATIENCE,
        format!(
            "a stop may take {} s, and {by} kills after 90 s if the unit says nothing else",
            stop.as_secs()
        ),
        "set TimeoutStopSec= above lameduck and graceful-timeout together",
    );
    note(
        worker.graceful_timeout.is_zero(),
        "graceful-timeout is 0: each stop cuts off all requests".to_owned(),
        "give it as long as the longest request takes",
    );
    note(
        worker.timeout.is_zero(),
        "timeout is 0: a worker that hangs is never replaced".to_owned(),
        "give it longer than the longest wait on the loop",
    );
    let on_loop = settings.backend.as_ref().is_some_and(|backend| backend.max_threads() == Some(1));
    let limit = worker.limits.request_timeout;
    note(
        on_loop && !limit.is_zero() && !worker.timeout.is_zero() && limit >= worker.timeout,
        "request-timeout is not less than timeout: a worker is ended for a hang before its client is told"
            .to_owned(),
        "set it a few seconds below timeout, or use threaded",
    );
    note(
        arbiter.control_socket.is_none(),
        "there is no control socket: status, recycle, log-level and the other commands have nothing to talk to".to_owned(),
        "set control-socket to a path in a directory that only the server's user may write",
    );
    note(
        !arbiter.lameduck.is_zero() && arbiter.admin.is_none(),
        "lameduck is set, but without admin-bind nobody sees that the server is about to stop".to_owned(),
        "set admin-bind, and have the balancer ask /readyz there",
    );
    note(
        matches!(arbiter.admin, Some(Bind::Inet(addr)) if addr.ip().is_unspecified()),
        "the admin listener is on all addresses, and has no access control".to_owned(),
        "bind it to a private address, or to unix:PATH",
    );
    note(
        settings.log_level > Level::INFO,
        format!(
            "log-level is {}, which is much to write at each request",
            settings.log_level.as_str().to_lowercase()
        ),
        "set it to info; `log-level debug` raises it while the server runs",
    );
    found
}
