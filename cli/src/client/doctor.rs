//! `doctor`: reports settings and limits that cause problems in production, with a remedy for each.
//! It changes nothing and starts nothing.
//!
//! It reports certain problems only. Each check is a function of the settings and of facts about
//! the machine ([`Machine`]).

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use remuda_arbiter::{Bind, Gate, ListenerEnd};
use remuda_core::proxy::ProxyProtocol;
use tracing::Level;

use crate::settings::Settings;

/// Prints the findings. Returns the exit status: 0 if there are none, 1 otherwise.
pub(crate) fn examine(settings: &Settings) -> u8 {
    let found = findings(settings, &Machine::this(settings));
    let text = match found.is_empty() {
        true => "no problems found\n".to_owned(),
        false => found.iter().map(|Finding { what, advice }| format!("- {what}\n  {advice}\n")).collect(),
    };
    // A closed standard output loses the text; the status remains.
    let _ = io::stdout().write_all(text.as_bytes());
    u8::from(!found.is_empty())
}

/// A problem, and the remedy.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) what: String,
    pub(super) advice: String,
}

/// Facts about the machine; `None` for a fact that the system does not reveal.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// Descriptors that a process may open.
    pub(super) descriptors: Option<u64>,
    /// The longest queue of a listener.
    pub(super) somaxconn: Option<u64>,
    /// Processes and threads that the control group may have (`pids.max`).
    pub(super) tasks: Option<u64>,
    /// Processes and threads that a user without privilege may have (`ulimit -u`, RLIMIT_NPROC).
    pub(super) user_tasks: Option<u64>,
    /// The largest core dump of a process, in bytes; 0: none.
    pub(super) core_dump: Option<u64>,
    /// Whether connections that wait at an ending listener may move to another listener on the same
    /// address.
    pub(super) migrates: Option<bool>,
    /// Whether this process runs as root.
    pub(super) is_root: bool,
    /// Whether systemd has started this process.
    pub(super) systemd: bool,
    /// Whether an ending TCP listener can drop new connects while open handshakes complete.
    pub(super) has_gate: Option<bool>,
    /// Whether open handshakes can be counted at that moment.
    pub(super) sees_handshakes: Option<bool>,
    /// Missing files of a server that runs with these settings, one sentence each.
    pub(super) lost: Vec<String>,
}

impl Machine {
    fn this(settings: &Settings) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let column = |text: &str, name: &str, column: usize| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(column)?.parse().ok()
        };
        let end = ListenerEnd::of_this_system();
        Self {
            has_gate: end.map(|end| end.gate != Gate::None),
            sees_handshakes: end.map(|end| end.sees_handshakes),
            descriptors: column(&read("/proc/self/limits"), "Max open files", 0),
            tasks: most_tasks(&read("/proc/self/cgroup")),
            user_tasks: column(&read("/proc/self/limits"), "Max processes", 0),
            core_dump: most_core_dump(&read("/proc/self/limits")),
            somaxconn: read("/proc/sys/net/core/somaxconn").trim().parse().ok(),
            migrates: read("/proc/sys/net/ipv4/tcp_migrate_req").trim().parse::<u8>().ok().map(|n| n != 0),
            is_root: column(&read("/proc/self/status"), "Uid:", 1) == Some(0),
            systemd: ["INVOCATION_ID", "NOTIFY_SOCKET"].iter().any(|name| env::var_os(name).is_some()),
            lost: remuda_arbiter::lost_files(&settings.arbiter),
        }
    }
}

/// The limit of tasks of the control group that `cgroups`, the content of /proc/self/cgroup, names
/// (cgroups(7)). None if there is none, or if it cannot be read.
fn most_tasks(cgroups: &str) -> Option<u64> {
    let group = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    fs::read_to_string(format!("/sys/fs/cgroup{}/pids.max", group.trim_end_matches('/')))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The limit of core dumps in `limits`, the content of /proc/self/limits. No limit counts as the
/// largest number.
fn most_core_dump(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    let soft = line.split_whitespace().next()?;
    Some(if soft == "unlimited" { u64::MAX } else { soft.parse().ok()? })
}

/// Descriptors that a worker needs besides its connections: listeners, pipes, files of the
/// application.
const SPARE: u64 = 64;

/// Processes besides workers and keepers: the arbiter, the admin helper, and one that writes stack
/// traces.
const OTHER_PROCESSES: u64 = 3;

/// How long systemd waits for a stop by default (systemd.service(5), `TimeoutStopSec`).
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(90);

/// How long HAProxy keeps an idle connection to a server; nearly all other proxies keep theirs
/// longer.
const SHORTEST_POOL: Duration = Duration::from_secs(15);

/// How the settings reveal an HTTP proxy in front, if they do.
fn proxy_in_front(settings: &Settings) -> Option<&'static str> {
    let arbiter = &settings.arbiter;
    let is_elsewhere = |item: &String| match item.parse::<IpAddr>() {
        Ok(ip) => !ip.is_loopback(),
        Err(_) => item != "unix" && !item.starts_with("127."),
    };
    let is_unix = |bind: &Bind| matches!(bind, Bind::Unix(_));
    if arbiter.worker.limits.proxies.forwarded.items().iter().any(is_elsewhere) {
        Some("forwarded-allow-ips names a proxy")
    } else if !arbiter.binds.is_empty() && arbiter.binds.iter().all(is_unix) {
        Some("a server on unix sockets alone is behind a proxy")
    } else {
        None
    }
}

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
            format!("a worker may open {connections} connections, but only {descriptors} descriptors"),
            "raise the limit (ulimit -n, LimitNOFILE=), or lower worker-connections",
        );
        note(
            connections == 0,
            format!(
                "worker-connections is 0: a worker accepts until its limit of {descriptors} descriptors is reached"
            ),
            "set worker-connections below the limit, so that further connections wait in the kernel's queue",
        );
    }
    if let Some(somaxconn) = machine.somaxconn {
        note(
            u64::from(arbiter.backlog) > somaxconn,
            format!(
                "backlog is {}, but the kernel caps it at {somaxconn} (net.core.somaxconn)",
                arbiter.backlog
            ),
            "raise net.core.somaxconn by sysctl, or lower backlog",
        );
    }
    note(
        arbiter.reuse_port && machine.migrates == Some(false),
        "reuse-port is set and net.ipv4.tcp_migrate_req is 0: clients that connect while a listener \
         ends, as at TTOU, have to connect again"
            .to_owned(),
        "set net.ipv4.tcp_migrate_req to 1 by sysctl",
    );
    let processes = 2 * u64::from(arbiter.workers + arbiter.replaced()) + OTHER_PROCESSES;
    note(
        worker.rescue && machine.tasks.is_some_and(|most| most < processes),
        format!(
            "the server may have {processes} processes, each worker with its keeper, but pids.max allows {}",
            machine.tasks.unwrap_or_default()
        ),
        "raise pids.max (TasksMax=, --pids-limit), lower workers, or set rescue to false",
    );
    let is_bound = !machine.is_root || arbiter.process.user.is_some();
    note(
        worker.rescue && is_bound && machine.user_tasks.is_some_and(|most| most < processes),
        format!(
            "the server may have {processes} processes, each worker with its keeper, but RLIMIT_NPROC allows {}",
            machine.user_tasks.unwrap_or_default()
        ),
        "raise the limit (ulimit -u, LimitNPROC=), lower workers, or set rescue to false",
    );
    note(
        worker.rescue && machine.core_dump.is_some_and(|most| most > 0),
        "core dumps are enabled (RLIMIT_CORE): the connections of a worker that crashes wait until its dump is written".to_owned(),
        "set LimitCORE=0 or ulimit -c 0, if dumps are large and not needed",
    );
    let tcp = arbiter.binds.iter().any(|bind| matches!(bind, Bind::Inet(_)));
    note(
        tcp && machine.has_gate == Some(false),
        "neither a socket filter nor IP_MINTTL is available for TCP listeners: a client that connects \
         at the moment of a stop may be reset"
            .to_owned(),
        "grant CAP_NET_ADMIN, use a kernel with IP_MINTTL, or let a service manager hold the socket",
    );
    note(
        tcp && machine.sees_handshakes == Some(false),
        "open handshakes cannot be listed (NETLINK_SOCK_DIAG): a client more than 40 ms away that \
         connects at the moment of a stop may be reset"
            .to_owned(),
        "allow AF_NETLINK where the sandbox names families (RestrictAddressFamilies=), and the module tcp_diag",
    );
    note(
        machine.is_root && arbiter.process.user.is_none(),
        "workers and application would run as root".to_owned(),
        "set user, or start the server as a user of its own; ports below 1024 need only CAP_NET_BIND_SERVICE",
    );
    for lost in &machine.lost {
        note(
            true,
            lost.clone(),
            "send HUP to the arbiter, which creates it again, and move it to a directory that is not cleaned, such as one in /run",
        );
    }
    for (setting, path) in swept(settings) {
        note(
            true,
            format!("{setting} is {}, where systemd-tmpfiles removes old files", path.display()),
            "move it to a directory of its own in /run (RuntimeDirectory=)",
        );
    }
    // A supervisor counts from TERM, so the lame duck's time is part of the stop.
    let stop = arbiter.lameduck + worker.graceful_timeout;
    let by = if machine.systemd { "systemd, which started this process," } else { "systemd" };
    note(
        stop >= SYSTEMD_PATIENCE,
        format!("a stop may take {} s, but {by} kills after 90 s by default", stop.as_secs()),
        "set TimeoutStopSec= above the sum of lameduck and graceful-timeout",
    );
    note(
        worker.graceful_timeout.is_zero(),
        "graceful-timeout is 0: each stop cuts off all requests at once".to_owned(),
        "set it to the time of the longest request",
    );
    note(
        worker.timeout.is_zero(),
        "timeout is 0: a worker that hangs is never replaced".to_owned(),
        "set it above the longest time that a handler blocks the loop",
    );
    // Only a handler that runs on the loop keeps it from beating; elsewhere a slow handler is no
    // hang.
    let on_loop = settings.backend.as_ref().is_some_and(|backend| backend.max_threads() == Some(1));
    let limit = worker.limits.request_timeout;
    note(
        on_loop && !limit.is_zero() && !worker.timeout.is_zero() && limit >= worker.timeout,
        "request-timeout is not less than timeout: a worker is ended as hung before the client gets 503"
            .to_owned(),
        "set it a few seconds below timeout, or use threaded",
    );
    let (keep_alive, front) = (worker.limits.keep_alive, &worker.limits.proxies);
    let is_behind = match front.proxy_protocol {
        ProxyProtocol::Off => proxy_in_front(settings),
        // A balancer that sends PROXY headers passes on bytes, and keeps no pool of connections.
        _ => None,
    };
    note(
        is_behind.is_some() && !keep_alive.is_zero() && keep_alive < SHORTEST_POOL,
        format!(
            "keep-alive is {} s, less than nearly all proxies keep connections, and {}: a POST that the \
             proxy sends on a connection that has just ended is lost",
            keep_alive.as_secs_f64(),
            is_behind.unwrap_or_default()
        ),
        "set keep-alive above the proxy's own time: 20 for HAProxy, 75 for nginx, 95 for Traefik, 125 for Caddy",
    );
    note(
        arbiter.control_socket.is_none(),
        "there is no control socket: status, recycle, log-level and the other commands cannot reach the server".to_owned(),
        "set control-socket to a path in a directory that only the server's user may write",
    );
    note(
        !arbiter.lameduck.is_zero() && arbiter.admin.is_none(),
        "lameduck is set, but without admin-bind a load balancer cannot see that the server is about to stop"
            .to_owned(),
        "set admin-bind, and let the balancer check /readyz there",
    );
    note(
        matches!(arbiter.admin, Some(Bind::Inet(addr)) if addr.ip().is_unspecified()),
        "admin-bind is on all addresses, and has no access control".to_owned(),
        "bind it to a private address, or to unix:PATH",
    );
    note(
        settings.log_level > Level::INFO,
        format!(
            "log-level is {}, which writes several lines for each request",
            settings.log_level.as_str().to_lowercase()
        ),
        "set it to info; `log-level debug` raises it while the server runs",
    );
    found
}

/// The server's sockets and pidfile in directories that systemd-tmpfiles cleans (tmpfiles.d(5),
/// tmp.conf).
fn swept(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let arbiter = &settings.arbiter;
    let directory = arbiter.process.directory.as_deref().unwrap_or_else(|| Path::new(""));
    let unix = |bind: &Bind| match bind {
        Bind::Unix(path) => Some(path.clone()),
        _ => None,
    };
    let binds = arbiter.binds.iter().filter_map(unix).map(|path| ("bind", path));
    let all = binds
        .chain(arbiter.control_socket.clone().map(|path| ("control-socket", path)))
        .chain(arbiter.admin.as_ref().and_then(unix).map(|path| ("admin-bind", path)))
        .chain(arbiter.process.pidfile.clone().map(|path| ("pid", path)));
    let all = all.map(|(setting, path)| (setting, directory.join(path)));
    all.filter(|(_, path)| ["/tmp", "/var/tmp"].iter().any(|swept| path.starts_with(swept))).collect()
}
