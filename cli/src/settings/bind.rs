//! Addresses to listen on, as they are written: `HOST:PORT`, `[V6]:PORT`, `unix:PATH`, `fd://N`, `fd://NAME`, `systemd`.

use std::net::{SocketAddr, ToSocketAddrs};

use remuda_arbiter::Bind;

use super::kind::Refusal;

/// The longest path of a unix socket in bytes: `sun_path` with its final zero is 108, see unix(7).
const PATH_MAX: usize = 107;

/// Reads addresses: at least one, and none twice.
pub(super) fn parse_all(written: &[String]) -> Result<Vec<Bind>, Refusal> {
    let mut binds = Vec::new();
    if written.is_empty() {
        return Err(because("at least one is needed"));
    }
    for text in written {
        let bind = parse(text)?;
        // Port 0 is another port each time.
        let again = binds.contains(&bind) && !matches!(bind, Bind::Inet(addr) if addr.port() == 0);
        if again {
            return Err(because(format!("{bind} is there twice")));
        }
        binds.push(bind);
    }
    Ok(binds)
}

pub(super) fn parse(text: &str) -> Result<Bind, Refusal> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.len() {
            0 => Err(because("the path is missing")),
            1..=PATH_MAX => Ok(Bind::Unix(path.into())),
            n => Err(because(format!("the path is {n} bytes long, limit {PATH_MAX}"))),
        };
    }
    if let Some(fd) = text.strip_prefix("fd://") {
        // As systemd.socket(5) has names, but that a number is one.
        let is_name = |name: &str| {
            (1..=255).contains(&name.len())
                && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
        };
        return match fd.parse::<i64>() {
            Ok(number) if (0..=i32::MAX.into()).contains(&number) => Ok(Bind::Fd(number as i32)),
            Err(_) if is_name(fd) => Ok(Bind::Named(fd.to_owned())),
            _ => Err(because("that is neither the number nor the name of a descriptor")),
        };
    }
    if text == Bind::Activated.to_string() {
        return Ok(Bind::Activated);
    }
    inet(text).map(Bind::Inet)
}

fn inet(text: &str) -> Result<SocketAddr, Refusal> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| because(format!("{text:?} has no port")))?;
    let port: u16 = port.parse().map_err(|_| because(format!("port {port:?} is not from 0 to 65535")))?;
    match host {
        "" => return Err(because(format!("the host is missing; all IPv4 addresses are 0.0.0.0:{port}"))),
        _ if host.contains(':') => {
            return Err(because(format!("an IPv6 address has brackets: [{host}]:{port}")));
        }
        _ => {}
    }
    let found = (host, port).to_socket_addrs().map_err(|e| because(format!("{host:?} is unknown: {e}")))?;
    // IPv4 first: where IPv6 is off, names such as localhost often have an IPv6 address all the same.
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| because(format!("{host:?} has no address")))
}

fn because(why: impl Into<String>) -> Refusal {
    Refusal(Some(why.into()))
}

#[cfg(test)]
mod tests;
