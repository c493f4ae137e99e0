//! How operators talk to the server.

use remuda_arbiter::Bind;

use super::kind::{Kind, Refusal};
use super::table::{Category, Setting};
use super::{Settings, bind};

/// The setting that the sub-commands find the server by.
pub(crate) const CONTROL_SOCKET: &str = "control-socket";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: CONTROL_SOCKET,
        short: None,
        category: Category::Operators,
        kind: Kind::Text {
            placeholder: "PATH",
            allowed: "the path of a unix socket, or nothing for none",
            set: |s, path| {
                s.arbiter.control_socket = path.map(Into::into);
                Ok(())
            },
        },
        default: "",
        platform: None,
        reload: false,
        help: "Unix socket that takes the sub-commands; empty: none",
        about: "Only the server's user and root may connect. The sub-commands (status, reload, scale, recycle, drain, \
                stop, upgrade, top, log-level) find the server by the same flag or variable. A relative path starts at chdir.",
    },
    Setting {
        name: "admin-bind",
        short: None,
        category: Category::Operators,
        kind: Kind::Text {
            placeholder: "ADDRESS",
            allowed: "HOST:PORT, [V6]:PORT, unix:PATH, or nothing for none",
            set: admin_bind,
        },
        default: "",
        platform: None,
        reload: false,
        help: "Where /healthz, /readyz and /metrics are served; empty: nowhere",
        about: "By a process of its own, which is not one of the workers and answers also while all of them are stuck. \
                Not for the public: it has no access control.",
    },
];

fn admin_bind(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    settings.arbiter.admin = match text.map(bind::parse).transpose()? {
        Some(bind @ (Bind::Inet(_) | Bind::Unix(_))) => Some(bind),
        Some(_) => return Err(Refusal(None)),
        None => None,
    };
    Ok(())
}
