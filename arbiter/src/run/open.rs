//! Opens the pidfile, the listeners and the control socket at the start.

use std::path::{Path, PathBuf};

use crate::activation::Passed;
use crate::config::{ArbiterConfig, Bind};
use crate::control::server::ControlSocket;
use crate::listener::per_slot::PerSlotListeners;
use crate::listener::{BindError, InheritedListener, ListenerSet, Listeners};
use crate::outcome::Outcome;
use crate::pidfile::Pidfile;

/// The files and sockets of the server.
pub(super) struct Opened {
    pub(super) pidfile: Option<Pidfile>,
    pub(super) chosen: ListenerSet,
    pub(super) control: Option<ControlSocket>,
    pub(super) admin: Listeners,
}

/// Opens all files and sockets, or none. `old_for_operators` are the listeners for operators of an
/// old arbiter, if there is one.
pub(super) fn open(
    config: &ArbiterConfig,
    listeners: &mut Listeners,
    slots: &mut PerSlotListeners,
    old_for_operators: Option<Vec<InheritedListener>>,
) -> Result<Opened, Outcome> {
    let ArbiterConfig { process, control_socket, admin, .. } = config;
    let path = process.pidfile.as_deref();
    let claimed = match old_for_operators {
        None => path.map(Pidfile::claim),
        Some(_) => path.map(|path| Pidfile::claim(&second(path))),
    };
    let pidfile = claimed.transpose()?;
    Passed::of_process().close_on_exec();
    let chosen = listen(config, listeners, slots)?;
    let mut inherited = old_for_operators.unwrap_or_default();
    let control = control_socket.as_deref().map(|path| ControlSocket::bind(path, &mut inherited)).transpose();
    let mut control = control.inspect_err(|_| listeners.end())?;
    let admin = admin.as_ref().map(|bind| bind_admin(bind, config, Some(&mut inherited))).transpose();
    let admin = admin.inspect_err(|_| {
        listeners.end();
        control.iter_mut().for_each(ControlSocket::end);
    })?;
    Ok(Opened { pidfile, chosen, control, admin: admin.unwrap_or_default() })
}

/// Binds the admin listener. `inherited`: as for [`Listeners::bind`].
pub(super) fn bind_admin(
    bind: &Bind,
    config: &ArbiterConfig,
    inherited: Option<&mut Vec<InheritedListener>>,
) -> Result<Listeners, BindError> {
    Listeners::bind(bind, ADMIN_BACKLOG, config.process.owner(), inherited)
}

/// Binds the addresses of `config`, also for all slots. On an error nothing is changed.
pub(super) fn listen(
    config: &ArbiterConfig,
    listeners: &mut Listeners,
    slots: &mut PerSlotListeners,
) -> Result<ListenerSet, BindError> {
    let ArbiterConfig { process, binds, backlog, .. } = config;
    let chosen = listeners.choose(&Passed::of_process().resolve(binds)?, *backlog, process.owner())?;
    slots.open_all(listeners).inspect_err(|_| {
        listeners.drop_new(&chosen);
        slots.drop_new(&chosen);
    })?;
    listeners.settle();
    Ok(chosen)
}

/// The backlog of the admin listener.
const ADMIN_BACKLOG: u32 = 128;

/// The path of the pidfile while an old arbiter holds the usual one.
fn second(pidfile: &Path) -> PathBuf {
    let mut path = pidfile.to_owned().into_os_string();
    path.push(".2");
    path.into()
}
