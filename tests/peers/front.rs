//! A proxy in front of a server, or by itself, as a process in a private directory.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::until;
use tempfile::TempDir;

/// A proxy. Dropping it ends it.
pub(crate) struct Front {
    process: Child,
    address: Address,
    dir: TempDir,
}

impl Front {
    /// nginx in one process, with a pool of connections to `upstream` and no second try. One that it does not use it closes.
    pub(crate) fn nginx(upstream: &Address) -> Self {
        Self::nginx_with(upstream, "keepalive 32; keepalive_timeout 1s;", "", "")
    }

    /// The same with a pool that holds a connection for each of so many clients, and closes none.
    pub(crate) fn nginx_for(upstream: &Address, clients: usize) -> Self {
        let pool = format!("keepalive {clients}; keepalive_timeout 60s; keepalive_requests 100000000;");
        Self::nginx_with(upstream, &pool, "", "")
    }

    /// nginx that says in fields who its clients are, as they tell in a PROXY header.
    pub(crate) fn nginx_forwarding(upstream: &Address) -> Self {
        Self::nginx_with(
            upstream,
            "",
            "proxy_protocol",
            "set_real_ip_from unix:;
            real_ip_header proxy_protocol;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header X-Forwarded-Host $host;",
        )
    }

    fn nginx_with(upstream: &Address, pool: &str, listen: &str, location: &str) -> Self {
        let Address::Inet(upstream) = upstream else { unreachable!("it has a port") };
        Self::nginx_of(
            &format!("upstream app {{ server {upstream}; {pool} }}"),
            listen,
            &format!(
                "location / {{
                    proxy_pass http://app;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_next_upstream off;
                    {location}
                }}"
            ),
        )
    }

    /// nginx by itself, which answers `marked` with 418 and all else with 200.
    pub(crate) fn nginx_alone(marked: &str) -> Self {
        let locations = format!("location / {{ return 200; }} location = {marked} {{ return 418; }}");
        Self::nginx_of("", "", &locations)
    }

    fn nginx_of(upstream: &str, listen: &str, locations: &str) -> Self {
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = paths.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log {ERRORS} warn;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                {paths}
                {upstream}
                server {{
                    listen unix:front.sock {listen};
                    {locations}
                }}
            }}"
        );
        Self::start("nginx", &["-p", ".", "-e", ERRORS, "-c", "front.conf"], &config)
    }

    /// HAProxy in one process, which uses a connection to `upstream` again whenever it can, tries nothing twice, and logs what
    /// fails.
    pub(crate) fn haproxy(upstream: &Address) -> Self {
        Self::haproxy_with(upstream, "", "")
    }

    /// HAProxy that says in a PROXY header who its clients are, as they tell in another, and `sends` it in one version or the
    /// other.
    pub(crate) fn haproxy_proxying(upstream: &Address, sends: &str) -> Self {
        Self::haproxy_with(upstream, "accept-proxy", sends)
    }

    fn haproxy_with(upstream: &Address, bind: &str, server: &str) -> Self {
        let Address::Inet(upstream) = upstream else { unreachable!("it has a port") };
        let config = format!(
            "global
                log stderr format raw daemon
            defaults
                mode http
                log global
                option httplog
                option dontlog-normal
                option dontlognull
                timeout connect 5s
                timeout client 30s
                timeout server 30s
                retries 0
                http-reuse always
            listen front
                bind unix@front.sock {bind}
                server app {upstream} {server} pool-purge-delay 500ms\n"
        );
        Self::start("haproxy", &["-db", "-f", "front.conf"], &config)
    }

    fn start(program: &str, args: &[&str], config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        fs::write(dir.path().join("front.conf"), config).expect("a file can be written");
        let address = Address::Unix(dir.path().join("front.sock"));
        let errors = File::create(dir.path().join(ERRORS)).expect("a file can be written");
        let mut command = Command::new(program);
        command.args(args).current_dir(&dir).stdin(Stdio::null()).stderr(errors);
        let process = command.spawn().unwrap_or_else(|error| panic!("{program} is not installed: {error}"));
        let front = Self { process, address, dir };
        until(PATIENCE, || front.address.connect(PATIENCE).ok()).expect("it becomes ready");
        front
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// What it has written to its error log.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.dir.path().join(ERRORS)).expect("it was created")
    }
}

const ERRORS: &str = "error.log";

impl Drop for Front {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
