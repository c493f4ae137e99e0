//! The table: all settings, each from the file of its category.

use super::setting::Setting;
use super::{limits, logging, operators, processes, proxies, shutdown, sockets, system, timeouts};

/// Every setting, category by category.
pub fn table() -> impl Iterator<Item = &'static Setting> {
    [
        processes::SETTINGS,
        sockets::SETTINGS,
        timeouts::SETTINGS,
        limits::SETTINGS,
        proxies::SETTINGS,
        shutdown::SETTINGS,
        logging::SETTINGS,
        system::SETTINGS,
        operators::SETTINGS,
    ]
    .into_iter()
    .flatten()
}

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    table().find(|setting| setting.name == name)
}
