//! Proxies in front of the server, and which of their information about clients is trusted.

use remuda_core::config::Underscores;
use remuda_core::proxy::ProxyProtocol;

use super::kind::{Choice, Kind};
use super::setting::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "proxy-protocol",
        short: None,
        category: Category::Proxies,
        kind: Kind::Choice {
            among: &[
                Choice::new("off", |s| s.arbiter.worker.limits.proxies.proxy_protocol = ProxyProtocol::Off),
                Choice::new("v1", |s| s.arbiter.worker.limits.proxies.proxy_protocol = ProxyProtocol::V1),
                Choice::new("v2", |s| s.arbiter.worker.limits.proxies.proxy_protocol = ProxyProtocol::V2),
                Choice::new("auto", |s| s.arbiter.worker.limits.proxies.proxy_protocol = ProxyProtocol::Auto),
            ],
        },
        default: "off",
        platform: None,
        reload: true,
        help: "PROXY header that every connection has to begin with: off, v1, v2, or auto for either",
        about: "The header carries the client's address, for all requests of the connection. A \
                connection without one is refused with 400: nothing is guessed.",
    },
    Setting {
        name: "proxy-allow-from",
        short: None,
        category: Category::Proxies,
        kind: Kind::Peers {
            set: |s, peers| {
                let front = &mut s.arbiter.worker.limits.proxies;
                front.proxy_allow_from = (!peers.is_empty()).then_some(peers);
            },
        },
        default: "",
        platform: None,
        reload: true,
        help: "Peers that may send a PROXY header",
        about: "Other peers are refused with 403. A list as for forwarded-allow-ips; unix stands \
                for a list without any address. Empty: the list of forwarded-allow-ips.",
    },
    Setting {
        name: "forwarded-allow-ips",
        short: None,
        category: Category::Proxies,
        kind: Kind::Peers { set: |s, peers| s.arbiter.worker.limits.proxies.forwarded = peers },
        default: "127.0.0.1,::1",
        platform: None,
        reload: true,
        help: "Proxies whose fields about the client are trusted",
        about: "Addresses and networks, as in 10.0.0.0/8, or * for all; may be given several times \
                or separated by commas. Peers on unix sockets are trusted in any case. Empty: no \
                other peer.",
    },
    Setting {
        name: "header-map",
        short: None,
        category: Category::Proxies,
        kind: Kind::Choice {
            among: &[
                Choice::new("drop", |s| s.arbiter.worker.limits.proxies.underscores = Underscores::Drop),
                Choice::new("refuse", |s| s.arbiter.worker.limits.proxies.underscores = Underscores::Refuse),
                Choice::new("dangerous", |s| s.arbiter.worker.limits.proxies.underscores = Underscores::Keep),
            ],
        },
        default: "drop",
        platform: None,
        reload: true,
        help: "Treatment of fields with an underscore in their names: drop, refuse or dangerous",
        about: "Applications that name fields as CGI does take X_User for X-User, which only a \
                proxy should set. drop leaves such fields out, refuse answers their request with \
                400, dangerous passes them on.",
    },
];
