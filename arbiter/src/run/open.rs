//! What others may find of the server: its pidfile, its listeners, its control socket.

use std::path::{Path, PathBuf};

use crate::activation::Passed;
use crate::control::server::ControlSocket;
use crate::listener::slots::Slots;
use crate::listener::{BindError, Chosen, Heirloom, Listeners};
use crate::pidfile::Pidfile;
use crate::plan::{Allowance, Patience, Shape};
use crate::{ArbiterConfig, Outcome, UpgradeDrain};

/// What others may find of the server.
pub(super) struct Opened {
    pub(super) pidfile: Option<Pidfile>,
    pub(super) chosen: Chosen,
    pub(super) control: Option<ControlSocket>,
    pub(super) admin: Listeners,
}

/// Makes what others may find of the server: all of it, or nothing. If there is an old arbiter,
/// `elders` is what operators find there.
pub(super) fn open(
    config: &ArbiterConfig,
    listeners: &mut Listeners,
    slots: &mut Slots,
    elders: Option<Vec<Heirloom>>,
) -> Result<Opened, Outcome> {
    let ArbiterConfig { process, control_socket, admin, .. } = config;
    let path = process.pidfile.as_deref();
    let claimed = match elders {
        None => path.map(Pidfile::claim),
        Some(_) => path.map(|path| Pidfile::claim(&second(path))),
    };
    let pidfile = claimed.transpose()?;
    Passed::of_process().close_on_exec();
    let chosen = listen(config, listeners, slots)?;
    let mut heirlooms = elders.unwrap_or_default();
    let control = control_socket.as_deref().map(|path| ControlSocket::bind(path, &mut heirlooms)).transpose();
    let mut control = control.inspect_err(|_| listeners.end())?;
    let admin = admin.as_ref();
    let admin = admin.map(|bind| Listeners::bind(bind, ADMIN_BACKLOG, process.owner(), &mut heirlooms));
    let admin = admin.transpose();
    let admin = admin.inspect_err(|_| {
        listeners.end();
        control.iter_mut().for_each(ControlSocket::end);
    })?;
    Ok(Opened { pidfile, chosen, control, admin: admin.unwrap_or_default() })
}

/// Listens where `config` says, also for each slot that there is; on an error everything is as it was.
pub(super) fn listen(
    config: &ArbiterConfig,
    listeners: &mut Listeners,
    slots: &mut Slots,
) -> Result<Chosen, BindError> {
    let ArbiterConfig { process, binds, backlog, .. } = config;
    let chosen = listeners.choose(&Passed::of_process().resolve(binds)?, *backlog, process.owner())?;
    slots.open_all(listeners).inspect_err(|_| {
        listeners.drop_new(&chosen);
        slots.drop_new(&chosen);
    })?;
    listeners.settle();
    Ok(chosen)
}

/// The listeners that operators connect to.
pub(super) fn for_operators<'a>(
    control: &'a mut Option<ControlSocket>,
    admin: &'a mut Listeners,
) -> Vec<&'a mut Listeners> {
    control.as_mut().map(ControlSocket::listeners_mut).into_iter().chain([admin]).collect()
}

/// What the plan has to know of `config`, for a server with room for `seats` workers.
pub(crate) fn shape(config: &ArbiterConfig, seats: usize) -> Shape {
    let (workers, replaced) = (config.workers.max(1), usize::from(config.replaced()));
    Shape {
        workers,
        room: seats.saturating_sub(replaced),
        recycle_concurrency: config.recycle_concurrency.max(1).into(),
        reload_concurrency: config.reload_concurrency.max(1).into(),
        graceful_timeout: config.worker.graceful_timeout,
        lameduck: config.lameduck,
        holds: config.upgrade_drain == UpgradeDrain::Manual,
        patience: Patience {
            timeout: config.worker.timeout,
            boot_timeout: config.boot_timeout,
            nap: config.worker.beat_interval(),
        },
        allowance: Allowance {
            lifetime: config.max_lifetime,
            lifetime_jitter: config.max_lifetime_jitter,
            rss: config.max_rss,
            rss_jitter: config.max_rss_jitter,
        },
        max_boot_failures: config.max_boot_failures,
        own_listeners: config.reuse_port,
    }
}

/// Connections that may wait for the helper.
const ADMIN_BACKLOG: u32 = 128;

/// The pidfile of an arbiter beside another one.
fn second(pidfile: &Path) -> PathBuf {
    let mut path = pidfile.to_owned().into_os_string();
    path.push(".2");
    path.into()
}
