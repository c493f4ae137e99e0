//! Who stands in front of the server, and what is believed of what they say of clients.

use remuda_core::config::Underscores;
use remuda_core::proxy::ProxyProtocol;

use super::kind::{Choice, Kind};
use super::table::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "proxy-protocol",
        short: None,
        category: Category::Proxies,
        kind: Kind::Choice {
            among: &[
                Choice::new("off", |s| s.arbiter.worker.limits.front.proxy_protocol = ProxyProtocol::Off),
                Choice::new("v1", |s| s.arbiter.worker.limits.front.proxy_protocol = ProxyProtocol::V1),
                Choice::new("v2", |s| s.arbiter.worker.limits.front.proxy_protocol = ProxyProtocol::V2),
                Choice::new("auto", |s| s.arbiter.worker.limits.front.proxy_protocol = ProxyProtocol::Auto),
            ],
        },
        default: "off",
        platform: None,
        reload: true,
        help: "The PROXY header that every connection has to begin with: off, v1, v2, or auto for either",
        about: "It says who the client is, for all requests of the connection. A connection without one is refused with \
                400: nothing is guessed.",
    },
    Setting {
        name: "proxy-allow-from",
        short: None,
        category: Category::Proxies,
        kind: Kind::Peers {
            set: |s, peers| {
                let front = &mut s.arbiter.worker.limits.front;
                front.proxy_allow_from = (!peers.is_empty()).then_some(peers);
            },
        },
        default: "",
        platform: None,
        reload: true,
        help: "Who may send a PROXY header",
        about: "Others are refused with 403. As forwarded-allow-ips, and unix stands for a list without any address. \
                Empty: those of forwarded-allow-ips.",
    },
    Setting {
        name: "forwarded-allow-ips",
        short: None,
        category: Category::Proxies,
        kind: Kind::Peers { set: |s, peers| s.arbiter.worker.limits.front.forwarded = peers },
        default: "127.0.0.1,::1",
        platform: None,
        reload: true,
        help: "Proxies whose fields about the client are believed",
        about: "Addresses and networks, as in 10.0.0.0/8, or * for everybody; may be given several times or separated by \
                commas. Peers on unix sockets are believed whatever it says. Empty: nobody else.",
    },
    Setting {
        name: "header-map",
        short: None,
        category: Category::Proxies,
        kind: Kind::Choice {
            among: &[
                Choice::new("drop", |s| s.arbiter.worker.limits.front.underscores = Underscores::Drop),
                Choice::new("refuse", |s| s.arbiter.worker.limits.front.underscores = Underscores::Refuse),
                Choice::new("dangerous", |s| s.arbiter.worker.limits.front.underscores = Underscores::Keep),
            ],
        },
        default: "drop",
        platform: None,
        reload: true,
        help: "What becomes of fields with an underscore in their names: drop, refuse or dangerous",
        about: "Applications that know fields as CGI does take X_User for X-User, which only a proxy may be meant to set. \
                They are left out, their request is refused with 400, or they are passed on.",
    },
];
