//! A proxy in front of a server, or on its own, as a process in a private directory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::until;
use tempfile::TempDir;

/// A proxy process, which ends when this is dropped.
pub(crate) struct Proxy {
    process: Child,
    address: Address,
    dir: TempDir,
}

impl Proxy {
    /// nginx in one process, with a pool of connections to `upstream` and no retries. It closes a
    /// connection idle for 1 s.
    pub(crate) fn nginx(upstream: &Address) -> Self {
        Self::nginx_with(upstream, "keepalive 32; keepalive_timeout 1s;", "", "")
    }

    /// The same with a pool that holds one connection for each of `clients` clients, and closes
    /// none.
    pub(crate) fn nginx_for(upstream: &Address, clients: usize) -> Self {
        let pool = format!("keepalive {clients}; keepalive_timeout 60s; keepalive_requests 100000000;");
        Self::nginx_with(upstream, &pool, "", "")
    }

    /// nginx that forwards the client address of a PROXY header in fields.
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

    /// nginx on its own, which answers `marked` with 418 and every other target with 200.
    pub(crate) fn nginx_alone(marked: &str) -> Self {
        let locations = format!("location / {{ return 200; }} location = {marked} {{ return 418; }}");
        Self::nginx_of("", "", &locations)
    }

    /// nginx with the configuration that the book shows, in front of `upstream`.
    pub(crate) fn nginx_of_the_book(upstream: &Address) -> Self {
        let Address::Inet(upstream) = upstream else { unreachable!("it has a port") };
        let page = include_str!("../../book/src/proxies.md");
        let block = page.split_once("```nginx\n").and_then(|(_, rest)| rest.split_once("```"));
        let (block, _) = block.expect("the page shows a configuration");
        let (server, listen) = ("server unix:/run/remuda/server.sock;", "listen 80;");
        assert!(block.contains(server) && block.contains(listen), "{block}");
        let block = block.replace(server, &format!("server {upstream};"));
        Self::nginx_serving(&block.replace(listen, "listen unix:front.sock;"))
    }

    fn nginx_of(upstream: &str, listen: &str, locations: &str) -> Self {
        Self::nginx_serving(&format!(
            "{upstream}
            server {{
                listen unix:front.sock {listen};
                {locations}
            }}"
        ))
    }

    /// nginx with `servers` in its `http` block.
    fn nginx_serving(servers: &str) -> Self {
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = paths.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log {ERRORS} warn;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                {paths}
                {servers}
            }}"
        );
        Self::start("nginx", &["-p", ".", "-e", ERRORS, "-c", "front.conf"], &config)
    }

    /// HAProxy in one process, which reuses connections to `upstream` whenever it can, retries
    /// nothing, and logs failures.
    pub(crate) fn haproxy(upstream: &Address) -> Self {
        Self::haproxy_with(upstream, "", "")
    }

    /// HAProxy that takes the client address from a PROXY header and `sends` it on in a PROXY
    /// header of one version or the other.
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

    /// Apache in one process, which sends a whole request before it reads the response.
    pub(crate) fn apache(upstream: &Address) -> Self {
        let Address::Inet(upstream) = upstream else { unreachable!("it has a port") };
        // Apache cannot listen on a unix socket.
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let dir = tempfile::tempdir().expect("a directory can be made");
        let root = dir.path().display();
        let modules = ["mpm_event", "authz_core", "proxy", "proxy_http"];
        let modules: String = modules
            .iter()
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
            .collect();
        let config = format!(
            "{modules}
            ServerRoot {root}
            DefaultRuntimeDir {root}
            PidFile {root}/apache.pid
            ErrorLog {root}/{ERRORS}
            LogLevel crit
            ServerName front
            User nobody
            Group nogroup
            Listen {address}
            ProxyPass / http://{upstream}/\n"
        );
        let file = dir.path().join("front.conf").display().to_string();
        Self::start_in(dir, Address::Inet(address), "apache2", &["-X", "-f", &file], &config)
    }

    fn start(program: &str, args: &[&str], config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let address = Address::Unix(dir.path().join("front.sock"));
        Self::start_in(dir, address, program, args, config)
    }

    fn start_in(dir: TempDir, address: Address, program: &str, args: &[&str], config: &str) -> Self {
        fs::write(dir.path().join("front.conf"), config).expect("a file can be written");
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

    /// The contents of its error log.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.dir.path().join(ERRORS)).expect("it was created")
    }
}

const ERRORS: &str = "error.log";

impl Drop for Proxy {
    fn drop(&mut self) {
        // It has no state to save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
