//! Settings of gunicorn, uvicorn and puma, and their counterparts here.
//!
//! For operators with settings of one of these servers. An unknown flag, variable or key is looked
//! up here before a similar name is suggested: similarity alone is wrong more often than not
//! (`--daemon` is not `--drain`). The lists are those of gunicorn 27.0, uvicorn 0.54 and puma.
//! Names of gunicorn that exist only in its settings file have no dashes.

use std::fmt;

use super::setting::Setting;
use super::table::find;

/// A setting of another server.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Elsewhere {
    /// The server: `gunicorn`, `uvicorn` or `puma`.
    pub server: &'static str,
    /// Its names there, as written: the flag first, then others.
    pub names: &'static [&'static str],
    /// The counterpart here.
    pub here: Here,
}

/// The counterpart of another server's setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "it is here, by this name or another, or it is not")]
pub enum Here {
    /// A setting or flag of the same name, and the difference. Empty if there is none.
    Same(&'static str),
    /// A setting with this other name, and the difference.
    Named(&'static str, &'static str),
    /// No setting: the replacement, or why none is needed.
    Instead(&'static str),
}

/// All rows, server by server.
pub fn elsewhere() -> impl Iterator<Item = Elsewhere> {
    [("gunicorn", GUNICORN), ("uvicorn", UVICORN), ("puma", PUMA)]
        .into_iter()
        .flat_map(|(server, list)| list.iter().map(move |&(names, here)| Elsewhere { server, names, here }))
}

/// Returns the advice for the unknown `name`: a flag (`--certfile`, `-D`), a key (`certfile`) or
/// the rest of a variable after `REMUDA_` (`CERTFILE`). `call` formats the name of a setting for
/// that place. None if no other server has the name, or if it is a setting here with other
/// separators or case.
pub(super) fn advice(name: &str, call: fn(&Setting) -> String) -> Option<String> {
    let written = normal(name);
    if find(&written).is_some() {
        return None;
    }
    let is_short = name.starts_with('-') && !name.starts_with("--");
    let has = |one: &str| match one.starts_with('-') && !one.starts_with("--") {
        true => is_short && one == name,
        false => !is_short && normal(one) == written,
    };
    let known = elsewhere().filter(|other| other.names.iter().any(|one| has(one)));
    let mut advice: Vec<(Vec<&str>, String)> = Vec::new();
    for other in known {
        let here = match other.here {
            Same(_) => continue,
            Named(name, differs) => named(name, differs, call),
            Instead(words) => words.to_owned(),
        };
        match advice.iter_mut().find(|(_, said)| *said == here) {
            Some((servers, _)) => servers.push(other.server),
            None => advice.push((vec![other.server], here)),
        }
    }
    let sentences: Vec<_> = advice
        .iter()
        .map(|(servers, here)| format!("known from {}; here: {here}", servers.join(" and ")))
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

/// Returns the value here for another server's value of the setting `key`.
pub(super) fn value(key: &str, written: &str) -> Option<&'static str> {
    let class = |word: &str| written.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(word));
    match key {
        "worker-class" if ["gevent", "eventlet", "tornado", "asgi"].iter().any(|word| class(word)) => {
            Some("tokio")
        }
        "worker-class" if class("UvicornWorker") || class("UvicornH11Worker") => Some("tokio"),
        "log-level" if class("critical") || class("fatal") => Some("error"),
        "log-level" if class("warning") => Some("warn"),
        _ => None,
    }
}

fn normal(name: &str) -> String {
    name.trim_start_matches('-').replace('_', "-").to_lowercase()
}

/// Formats settings as flags.
impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same("") => f.write_str("the same"),
            Self::Same(differs) => write!(f, "the same, but {differs}"),
            Self::Named(name, differs) => f.write_str(&named(name, differs, as_flag)),
            Self::Instead(words) => f.write_str(words),
        }
    }
}

fn named(name: &str, differs: &str, call: fn(&Setting) -> String) -> String {
    let name = find(name).map_or_else(|| name.to_owned(), call);
    if differs.is_empty() { name } else { format!("{name}, {differs}") }
}

/// Formats the name of a setting as a flag.
pub(super) fn as_flag(setting: &Setting) -> String {
    format!("--{}", setting.name)
}

use Here::{Instead, Named, Same};

type Row = (&'static [&'static str], Here);

const TLS: Here = Instead("TLS is terminated by a proxy in front; see the book's page Behind proxies");
const HTTP2: Here = Instead("HTTP/1.1 only; HTTP/2 is terminated by a proxy in front");
const PYTHON: Here = Instead("none: an application is a Rust program, no Python is run");
const RUBY: Here = Instead("none: an application is a Rust program, no Ruby is run");
const WATCH: Here =
    Instead("files are not watched: `remuda reload` or HUP loads settings and application afresh");
const LOGGING: Here =
    Instead("--log-level, --log-format and the variable REMUDA_LOG, which has levels by module");
const SYSLOG: Here = Instead("standard error, which systemd or the container's runtime collects");
const STATSD: Here = Instead("--admin-bind, which serves /metrics for Prometheus");
const OUTPUT: Here = Instead("none: standard output and error are left as they are");
const STRICT: Here = Instead("none: requests that two parsers could read differently are always refused");
const PARSER: Here = Instead("none: there is one parser");
const SOCKETS: Here = Instead("the application, which takes a connection over and speaks WebSocket on it");
const HOOKS: Here = Instead("a method of the trait Hooks, given to Server::hooks by the program");
const DIRTY: Here = Instead("--threads: blocking handlers run there, in the worker");
const PREFIX: Here = Instead("none: an application sees the whole path");

const GUNICORN: &[Row] = &[
    (&["--config", "-c"], Same("the file is TOML, not a program")),
    (&["wsgi_app"], Instead("APP, on the command line")),
    (&["--bind", "-b"], Same("")),
    (&["--backlog"], Same("")),
    (&["--workers", "-w"], Same("")),
    (&["--worker-class", "-k"], Same("with other backends: sync, threaded (gthread), mio, tokio, smol")),
    (&["--threads"], Same("more than 1 with sync is an error")),
    (&["--worker-connections"], Same("")),
    (&["--max-requests"], Same("")),
    (&["--max-requests-jitter"], Same("10% by default")),
    (&["--timeout", "-t"], Same("")),
    (&["--graceful-timeout"], Same("")),
    (&["--keep-alive"], Same("")),
    (&["keepalive"], Named("keep-alive", "")),
    (&["--limit-request-line"], Same("")),
    (&["--limit-request-fields"], Same("")),
    (&["--limit-request-field_size"], Named("limit-request-field-size", "")),
    (&["--reload"], WATCH),
    (&["--reload-engine"], WATCH),
    (&["--reload-extra-file", "reload_extra_files"], WATCH),
    (&["--spew"], Instead("--log-level trace")),
    (&["--check-config"], Same("")),
    (&["--print-config"], Same("")),
    (&["--preload"], Same("")),
    (&["preload_app"], Named("preload", "")),
    (&["--no-sendfile", "sendfile"], Instead("none: the server sends no files by itself")),
    (&["--reuse-port"], Same("each worker then has a listener of its own")),
    (&["--chdir"], Same("")),
    (
        &["--daemon", "-D"],
        Instead(
            "the server stays in the foreground: run it under systemd, in a container or by `setsid remuda … &`",
        ),
    ),
    (&["--env", "-e"], Same("")),
    (&["raw_env"], Named("env", "")),
    (&["--pid", "-p"], Same("")),
    (&["pidfile"], Named("pid", "")),
    (&["--worker-tmp-dir"], Instead("none: heartbeats are in memory, not in a file")),
    (&["--user", "-u"], Same("workers have all groups of that user")),
    (&["--group", "-g"], Same("")),
    (&["--umask", "-m"], Same("in octal; by default, the umask of the start is kept")),
    (&["--initgroups"], Instead("none: a worker always has all groups of its user")),
    (&["tmp_upload_dir"], Instead("none: request bodies are not put into files")),
    (
        &["secure_scheme_headers"],
        Instead("--forwarded-allow-ips: trusted proxies give the scheme by Forwarded or X-Forwarded-Proto"),
    ),
    (&["--forwarded-allow-ips"], Same("the client's address is taken from there as well")),
    (&["--access-logfile"], Same("")),
    (&["accesslog"], Named("access-logfile", "")),
    (&["--disable-redirect-access-to-syslog"], SYSLOG),
    (&["--access-logformat"], Same("json is also a format")),
    (&["access_log_format"], Named("access-logformat", "")),
    (&["--error-logfile"], Same("")),
    (&["--log-file", "errorlog"], Named("error-logfile", "")),
    (&["--log-level"], Same("the highest is error")),
    (&["loglevel"], Named("log-level", "")),
    (&["--capture-output"], OUTPUT),
    (&["--logger-class"], LOGGING),
    (&["--log-config", "logconfig"], LOGGING),
    (&["logconfig_dict"], LOGGING),
    (&["--log-config-json", "logconfig_json"], LOGGING),
    (&["--log-syslog-to", "syslog_addr"], SYSLOG),
    (&["--log-syslog", "syslog"], SYSLOG),
    (&["--log-syslog-prefix", "syslog_prefix"], SYSLOG),
    (&["--log-syslog-facility", "syslog_facility"], SYSLOG),
    (&["--enable-stdio-inheritance", "-R"], OUTPUT),
    (&["--statsd-host"], STATSD),
    (&["--dogstatsd-tags"], STATSD),
    (&["--statsd-prefix"], STATSD),
    (&["--enable-backlog-metric"], Instead("--admin-bind: remuda_backlog is always measured")),
    (&["--name", "-n"], Same("shown behind the role of each process")),
    (&["proc_name"], Named("name", "")),
    (&["default_proc_name"], Named("name", "")),
    (&["--pythonpath"], PYTHON),
    (&["--paste", "--paster"], PYTHON),
    (&["--paste-global", "raw_paste_global_conf"], PYTHON),
    (&["on_starting"], HOOKS),
    (&["on_reload"], HOOKS),
    (&["when_ready"], HOOKS),
    (&["pre_fork"], HOOKS),
    (&["post_fork"], HOOKS),
    (&["post_worker_init"], HOOKS),
    (&["pre_exec"], HOOKS),
    (&["child_exit"], HOOKS),
    (&["worker_exit"], HOOKS),
    (&["nworkers_changed"], HOOKS),
    (&["on_exit"], HOOKS),
    (&["worker_int"], Instead("the drain signal, which every handler can see")),
    (&["worker_abort"], Instead("the log, which says what a hung worker was doing")),
    (&["pre_request"], Instead("the application, as a layer around its handlers")),
    (&["post_request"], Instead("the application, as a layer around its handlers, or the access log")),
    (&["ssl_context"], TLS),
    (&["--proxy-protocol"], Same("")),
    (&["--proxy-allow-from"], Same("")),
    (&["proxy_allow_ips"], Named("proxy-allow-from", "")),
    (&["--protocol"], Instead("HTTP only; the uwsgi protocol is not supported")),
    (&["--uwsgi-allow-from", "uwsgi_allow_ips"], Instead("HTTP only; the uwsgi protocol is not supported")),
    (&["--keyfile"], TLS),
    (&["--certfile"], TLS),
    (&["--ssl-version"], TLS),
    (&["--cert-reqs"], TLS),
    (&["--ca-certs"], TLS),
    (&["--suppress-ragged-eofs"], TLS),
    (&["--do-handshake-on-connect"], TLS),
    (&["--ciphers"], TLS),
    (&["--http-protocols"], HTTP2),
    (&["--http2-cleartext"], HTTP2),
    (&["--http2-max-concurrent-streams"], HTTP2),
    (&["--http2-initial-window-size"], HTTP2),
    (&["--http2-max-frame-size"], HTTP2),
    (&["--http2-max-header-list-size"], HTTP2),
    (&["--permit-obsolete-folding"], STRICT),
    (&["--strip-header-spaces"], STRICT),
    (&["--permit-unconventional-http-method"], STRICT),
    (&["--permit-unconventional-http-version"], STRICT),
    (&["--casefold-http-method"], STRICT),
    (&["--forwarder-headers"], Named("header-map", "for all names with an underscore")),
    (&["--header-map"], Same("")),
    (&["--asgi-loop"], Named("worker-class", "which has tokio and smol")),
    (&["--asgi-lifespan"], PYTHON),
    (&["--asgi-disconnect-grace-period"], Instead("none: a handler is told at once, and decides by itself")),
    (&["--websocket-max-message-size"], SOCKETS),
    (&["--http-parser"], PARSER),
    (&["--root-path"], PREFIX),
    (&["--dirty-app", "dirty_apps"], DIRTY),
    (&["--dirty-workers"], DIRTY),
    (&["--dirty-timeout"], DIRTY),
    (&["--dirty-threads"], DIRTY),
    (&["--dirty-graceful-timeout"], DIRTY),
    (&["on_dirty_starting"], DIRTY),
    (&["dirty_post_fork"], DIRTY),
    (&["dirty_worker_init"], DIRTY),
    (&["dirty_worker_exit"], DIRTY),
    (&["--control-socket"], Same("off by default")),
    (&["--control-socket-mode"], Instead("none: the mode is 0600, and the peer's user is checked")),
    (
        &["--no-control-socket", "control_socket_disable"],
        Instead("--control-socket left empty, which is the default"),
    ),
];

const UVICORN: &[Row] = &[
    (&["--host"], Named("bind", "as HOST:PORT")),
    (&["--port"], Named("bind", "as HOST:PORT, or the variable PORT")),
    (&["--uds"], Named("bind", "as unix:PATH")),
    (&["--fd"], Named("bind", "as fd://N")),
    (&["--reload"], WATCH),
    (&["--reload-dir"], WATCH),
    (&["--reload-include"], WATCH),
    (&["--reload-exclude"], WATCH),
    (&["--reload-delay"], WATCH),
    (&["--workers"], Same("")),
    (&["--loop"], Named("worker-class", "which has tokio and smol")),
    (&["--http"], PARSER),
    (&["--http2"], HTTP2),
    (&["--ws"], SOCKETS),
    (&["--ws-max-size"], SOCKETS),
    (&["--ws-max-queue"], SOCKETS),
    (&["--ws-ping-interval"], SOCKETS),
    (&["--ws-ping-timeout"], SOCKETS),
    (&["--ws-per-message-deflate"], SOCKETS),
    (&["--lifespan"], PYTHON),
    (&["--interface"], PYTHON),
    (&["--env-file"], Instead("--env NAME=VALUE, or EnvironmentFile= of systemd")),
    (&["--log-config"], LOGGING),
    (&["--log-level"], Same("the highest is error")),
    (&["--access-log"], Named("access-logfile", "as -; off by default")),
    (&["--no-access-log"], Named("access-logfile", "as off, which is the default")),
    (&["--use-colors"], Instead("none: a terminal gets colours")),
    (&["--no-use-colors"], Instead("the variable NO_COLOR")),
    (&["--proxy-headers"], Named("forwarded-allow-ips", "")),
    (&["--no-proxy-headers"], Named("forwarded-allow-ips", "left empty")),
    (&["--server-header"], Instead("the application: the server adds no Server field")),
    (&["--no-server-header"], Instead("none: the server adds no Server field")),
    (&["--date-header"], Instead("none: a response without a Date gets one")),
    (&["--no-date-header"], Instead("none: a response without a Date gets one (RFC 9110 §6.6.1)")),
    (&["--forwarded-allow-ips"], Same("")),
    (&["--root-path"], PREFIX),
    (
        &["--limit-concurrency"],
        Named("worker-connections", "beyond which connections wait instead of getting 503"),
    ),
    (&["--backlog"], Same("")),
    (&["--limit-max-requests"], Named("max-requests", "")),
    (&["--limit-max-requests-jitter"], Named("max-requests-jitter", "")),
    (&["--timeout-keep-alive"], Named("keep-alive", "")),
    (&["--timeout-graceful-shutdown"], Named("graceful-timeout", "")),
    (&["--timeout-worker-healthcheck"], Named("timeout", "")),
    (&["--ssl-keyfile"], TLS),
    (&["--ssl-certfile"], TLS),
    (&["--ssl-keyfile-password"], TLS),
    (&["--ssl-version"], TLS),
    (&["--ssl-cert-reqs"], TLS),
    (&["--ssl-ca-certs"], TLS),
    (&["--ssl-ciphers"], TLS),
    (&["--header"], Instead("the application, which sets its fields")),
    (&["--version"], Same("")),
    (&["--app-dir"], PYTHON),
    (&["--h11-max-incomplete-event-size"], Named("limit-request-head", "")),
    (&["--reset-contextvars"], PYTHON),
    (&["--factory"], PYTHON),
];

const PUMA: &[Row] = &[
    (&["--bind", "-b"], Same("tcp://HOST:PORT is HOST:PORT, and unix://PATH is unix:PATH")),
    (
        &["--bind-to-activated-sockets"],
        Named("bind", "as systemd, which is the default where sockets were passed on"),
    ),
    (&["--config", "-C"], Named("-c, --config", "a TOML file")),
    (&["--no-config"], Instead("none: remuda.toml is read if it exists; -c /dev/null names an empty file")),
    (&["--control-url"], Named("control-socket", "a path")),
    (&["--control-token"], Named("control-socket", "which checks the peer's user by the kernel")),
    (&["--debug"], Named("log-level", "as debug")),
    (&["--dir"], Named("chdir", "")),
    (&["--environment", "-e"], Named("env", "as RAILS_ENV=production; -e is its short form")),
    (&["--fork-worker", "-f"], Named("preload", "which shares the application's memory")),
    (&["--include", "-I"], RUBY),
    (&["--idle-timeout"], Instead("none: a server ends only on a signal or command")),
    (&["--port", "-p"], Named("bind", "as HOST:PORT, or the variable PORT; -p is the pidfile")),
    (&["--pidfile"], Named("pid", "")),
    (&["--plugin"], RUBY),
    (&["--preload"], Same("")),
    (&["--prune-bundler"], RUBY),
    (&["--extra-runtime-dependencies"], RUBY),
    (&["--quiet", "-q"], Named("access-logfile", "as off, which is the default")),
    (&["--log-requests", "-v"], Named("access-logfile", "as -")),
    (
        &["--restart-cmd", "-R"],
        Instead("`remuda upgrade` or USR2, which start the executable that is then at its path"),
    ),
    (&["--silent", "-s"], Named("log-level", "as error")),
    (&["--state", "-S"], Instead("--pid and --control-socket, by which the sub-commands find the server")),
    (&["--threads", "-t"], Same("one number; -t is timeout")),
    (&["--early-hints"], Instead("the application, by Responder::interim")),
    (&["--version", "-V"], Same("")),
    (&["--workers", "-w"], Same("")),
    (&["--tag"], Named("name", "")),
    (&["--redirect-stdout"], Named("access-logfile", "for the access log")),
    (&["--redirect-stderr"], Named("error-logfile", "")),
    (&["--redirect-append", "--no-redirect-append"], Instead("none: logs are always appended to")),
    (&["--help", "-h"], Same("")),
];

#[cfg(test)]
mod tests;
