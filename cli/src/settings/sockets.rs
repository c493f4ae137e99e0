//! Where connections come from, and how many.

use super::kind::Kind;
use super::table::{Category, Platform, Setting};

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
        about: "May be given several times; in a variable, addresses are separated by commas. Port 0 is one that \
                the kernel chooses. A host name is resolved at the start and at each reload, by the system's \
                resolver, for which the arbiter waits; its IPv4 address is preferred. fd://N is a descriptor that was opened, bound and passed on by whoever started the server; fd://NAME \
                stands for those that a service manager passed on under that name, and systemd for all \
                that it passed on, which is the default if there are any.",
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
        about: "The kernel cuts it to net.core.somaxconn, see listen(2).",
    },
    Setting {
        name: "reuse-port",
        short: None,
        category: Category::Sockets,
        kind: Kind::Switch { set: |s, on| s.arbiter.reuse_port = on },
        default: "false",
        platform: None,
        reload: true,
        help: "A TCP listener for each worker instead of one that all share",
        about: "The kernel then spreads connections by their addresses and ports (SO_REUSEPORT), however busy the workers \
                are; shared, it gives each to a worker that waits. Unix sockets and inherited descriptors stay shared. An \
                upgrade may turn it on or off; a reload that would is refused.",
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
        about: "Nothing is dropped: further connections wait in the kernel's queue, or another worker takes them.",
    },
];
