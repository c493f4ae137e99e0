//! Listeners, and numbers of connections.

use super::kind::Kind;
use super::setting::{Category, Platform, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "bind",
        short: Some('b'),
        category: Category::Sockets,
        kind: Kind::Addresses { set: |s, binds| s.arbiter.binds = binds },
        default: "127.0.0.1:8000",
        platform: Some(Platform::new("PORT", "0.0.0.0:")),
        reload: true,
        help: "Where to listen: HOST:PORT, [V6]:PORT, unix:PATH, fd://N, fd://NAME or systemd",
        about: "May be given several times; in a variable, addresses are separated by commas. With \
                port 0 the kernel chooses a port. A host name is resolved by the system's resolver, \
                at the start, which waits for the answer, and at each reload, during which no \
                process that serves waits; its IPv4 address is preferred. fd://N is a descriptor \
                that was opened, bound and passed on by the process that started the server. \
                fd://NAME stands for the descriptors that a service manager passed on under that \
                name, and systemd for all that it passed on, which is the default if there are any. \
                [V6%INTERFACE]:PORT is an address of one interface, as fe80::1%eth0 is. unix:@NAME \
                is an abstract socket: it is no file and has no mode, so that every process in the \
                network namespace may connect. An empty PORT counts as unset.",
    },
    Setting {
        name: "backlog",
        short: None,
        category: Category::Sockets,
        kind: Kind::Count { allowed: 1..=i32::MAX as u64, set: |s, n| s.arbiter.backlog = n as u32 },
        default: "2048",
        platform: None,
        reload: true,
        help: "Connections that the kernel may queue for each address",
        about: "The kernel caps it at net.core.somaxconn, see listen(2).",
    },
    Setting {
        name: "reuse-port",
        short: None,
        category: Category::Sockets,
        kind: Kind::Switch { set: |s, on| s.arbiter.reuse_port = on },
        default: "false",
        platform: None,
        reload: true,
        help: "Give each worker a TCP listener of its own instead of one that all share",
        about: "With listeners of their own (SO_REUSEPORT) the kernel spreads connections by their \
                addresses and ports, however busy the workers are; from a shared listener it gives \
                each connection to a worker that waits. Unix sockets and inherited descriptors stay \
                shared. An upgrade may turn this on or off; a reload that would is refused.",
    },
    Setting {
        name: "worker-connections",
        short: None,
        category: Category::Sockets,
        kind: Kind::Count { allowed: 0..=1_000_000, set: |s, n| s.arbiter.worker.connections = n as usize },
        default: "1000",
        platform: None,
        reload: true,
        help: "Open connections at which a worker stops accepting; 0: no limit",
        about: "No connection is dropped: further connections wait in the kernel's queue, or \
                another worker takes them.",
    },
];
