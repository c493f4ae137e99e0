//! Control socket and admin listener.

use remuda_arbiter::Bind;

use super::kind::Kind;
use super::setting::{Category, Setting};
use super::value::Refusal;
use super::{Settings, bind};

/// The setting by which sub-commands find the server.
pub(crate) const CONTROL_SOCKET: &str = "control-socket";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: CONTROL_SOCKET,
        short: None,
        category: Category::Operators,
        kind: Kind::Text {
            placeholder: "PATH",
            allowed: "the path of a unix socket, or nothing for none",
            set: control_socket,
        },
        default: "",
        platform: None,
        reload: false,
        help: "Unix socket that takes the sub-commands; empty: none",
        about: "Only the server's user and root may connect. The sub-commands (status, reload, \
                scale, recycle, drain, resume, stop, upgrade, top, log-level) find the server by \
                the same flag, variable or settings file. A relative path starts at chdir.",
    },
    Setting {
        name: "admin-bind",
        short: None,
        category: Category::Operators,
        kind: Kind::Text {
            placeholder: "ADDRESS",
            allowed: "HOST:PORT, [V6]:PORT, unix:PATH, unix:@NAME, or nothing for none",
            set: admin_bind,
        },
        default: "",
        platform: None,
        reload: false,
        help: "Address of /healthz, /readyz and /metrics; empty: none",
        about: "Served by a process of its own, which is not one of the workers and answers also \
                while all of them are stuck. Not for the public: it has no access control.",
    },
];

fn control_socket(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    if text.is_some_and(|path| path.starts_with('@')) {
        let why = "which names an abstract socket, and that has no mode to restrict access; for a file, put ./ in front";
        return Err(Refusal(Some(why.into())));
    }
    settings.arbiter.control_socket = text.map(Into::into);
    Ok(())
}

fn admin_bind(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    settings.arbiter.admin =
        match text.map(|text| bind::parse("admin-bind", text, &mut settings.names)).transpose()? {
            Some(bind @ (Bind::Inet(_) | Bind::Unix(_))) => Some(bind),
            Some(_) => return Err(Refusal(None)),
            None => None,
        };
    Ok(())
}
