//! Parses addresses to listen on: `HOST:PORT`, `[V6]:PORT`, `[V6%INTERFACE]:PORT`, `unix:PATH`,
//! `unix:@NAME`, `fd://N`, `fd://NAME`, `systemd`.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

use remuda_arbiter::Bind;

use super::names::Names;
use super::value::{Refusal, because};

/// The longest path of a unix socket in bytes: `sun_path` with its final zero is 108, see unix(7).
const PATH_MAX: usize = 107;

/// Parses the addresses of `bind`, and refuses an empty list and duplicates.
pub(super) fn parse_all(written: &[String], names: &mut Names) -> Result<Vec<Bind>, Refusal> {
    let mut binds = Vec::new();
    if written.is_empty() {
        return Err(because("at least one address is required"));
    }
    for text in written {
        let bind = parse("bind", text, names)?;
        // With port 0 the kernel chooses another port each time.
        let again = binds.contains(&bind) && !matches!(bind, Bind::Inet(addr) if addr.port() == 0);
        if again {
            return Err(because(format!("{bind} is given twice")));
        }
        binds.push(bind);
    }
    Ok(binds)
}

/// Parses one address of `setting`.
pub(super) fn parse(setting: &'static str, text: &str, names: &mut Names) -> Result<Bind, Refusal> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.len() {
            0 => Err(because("the path is missing")),
            1 if path == "@" => Err(because("the name is missing, as in unix:@app")),
            1..=PATH_MAX => Ok(Bind::Unix(path.into())),
            n => Err(because(format!("the path is {n} bytes long, limit {PATH_MAX}"))),
        };
    }
    if let Some(fd) = text.strip_prefix("fd://") {
        // The rules of systemd.socket(5) for names, except that a number is a descriptor.
        let is_name = |name: &str| {
            (1..=255).contains(&name.len())
                && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
        };
        return match fd.parse::<i64>() {
            Ok(number) if (0..=i32::MAX.into()).contains(&number) => Ok(Bind::Fd(number as i32)),
            Err(_) if is_name(fd) => Ok(Bind::Named(fd.to_owned())),
            _ => Err(because("which is neither the number nor the name of a descriptor")),
        };
    }
    if text == Bind::Activated.to_string() {
        return Ok(Bind::Activated);
    }
    inet(setting, text, names).map(Bind::Inet)
}

fn inet(setting: &'static str, text: &str, names: &mut Names) -> Result<SocketAddr, Refusal> {
    if let Ok(addr) = text.parse() {
        return match addr {
            SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() && addr.scope_id() == 0 => {
                let (ip, port) = (addr.ip(), addr.port());
                Err(because(format!("a link-local address needs its interface, as in [{ip}%eth0]:{port}")))
            }
            _ => Ok(addr),
        };
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        return Err(because(match scheme {
            "ssl" | "https" => "TLS is terminated by a proxy in front".to_owned(),
            _ => format!("which remuda writes as {rest:?}"),
        }));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| because(format!("{text:?} has no port")))?;
    let port: u16 = port.parse().map_err(|_| because(format!("port {port:?} is not from 0 to 65535")))?;
    match host {
        "" => return Err(because(format!("the host is missing; all IPv4 addresses are 0.0.0.0:{port}"))),
        // The system resolves the name of the interface (RFC 4007 §11.2).
        _ if is_scoped(host) => {
            let name = &host[1..host.len() - 1];
            let found = (name, port).to_socket_addrs().ok().and_then(|mut found| found.next());
            return found.ok_or_else(|| because(format!("{name:?} names no interface of this system")));
        }
        _ if host.contains(':') => {
            return Err(because(format!("an IPv6 address needs brackets: [{host}]:{port}")));
        }
        _ => {}
    }
    let mut addr = names.find(setting, host).map_err(because)?;
    addr.set_port(port);
    Ok(addr)
}

/// Whether `host` is an IPv6 address in brackets with its interface, by name or number.
fn is_scoped(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.and_then(|inner| inner.split_once('%')).is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests;
