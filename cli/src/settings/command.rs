//! Builds the command line from the table of settings.

use std::sync::Arc;

use clap::{Arg, ArgAction, Command};
use remuda_core::worker::Worker;

use super::Settings;
use super::operators::CONTROL_SOCKET;
use super::setting::Setting;
use super::table::table;

pub(super) const APP: &str = "APP";
pub(super) const CONFIG: &str = "config";
pub(super) const CHECK: &str = "check-config";
pub(super) const PRINT: &str = "print-config";

/// The only sub-command that contacts no server.
pub(crate) const DOCTOR: &str = "doctor";

/// Builds the command line of the program `name`. With `takes_app` it has the argument APP.
pub(crate) fn command(
    name: String,
    version: String,
    takes_app: bool,
    backends: &[Arc<dyn Worker>],
) -> Command {
    let settings = Settings { backends: backends.to_vec(), ..Settings::default() };
    let app = Arg::new(APP).help("Application to serve [default: the built-in demo application]");
    Command::new(name)
        .version(version)
        .about(
            "An HTTP server: one arbiter process, any number of workers, and a contract about how they stop",
        )
        .after_help(
            "Every setting is also read from the settings file (TOML, under the name of its flag), from a \
             variable (--worker-class: REMUDA_WORKER_CLASS) and from REMUDA_ARGS, a whole command line. \
             Flags override REMUDA_ARGS, REMUDA_ARGS overrides variables, variables override the file.",
        )
        .args_override_self(true)
        .disable_help_subcommand(true)
        .args(takes_app.then_some(app))
        .args(table().map(|setting| flag(setting, &settings)))
        .args(table().filter_map(negative_flag))
        .args([
            Arg::new(CONFIG)
                .short('c')
                .long(CONFIG)
                .global(true)
                .value_name("FILE")
                .help("Settings file [default: remuda.toml, if it exists]"),
            Arg::new(CHECK)
                .long(CHECK)
                .action(ArgAction::SetTrue)
                .help("Check the settings and exit with status 0 (right) or 2, without starting a server"),
            Arg::new(PRINT)
                .long(PRINT)
                .action(ArgAction::SetTrue)
                .help("Print the settings as a settings file, with the source of each, and exit"),
        ])
        // Settings have the heading of their category. Without one, clap would print the remaining
        // flags as its own `Options`, before all categories.
        .mut_args(|arg| match arg.get_help_heading() {
            None if !arg.is_positional() => arg.help_heading("Configuration"),
            _ => arg,
        })
}

fn flag(setting: &'static Setting, settings: &Settings) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        value => format!(" [default: {value}]"),
    };
    let short = format!("{}{default}", setting.help);
    let long = format!("{short}\n\n{}\n\n{}", setting.about, facts(setting, settings));
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.kind.placeholder())
        // A negative number is then refused as a value, with the allowed range, and not as an
        // unknown flag.
        .allow_negative_numbers(true)
        .action(if setting.kind.is_list() { ArgAction::Append } else { ArgAction::Set })
        .help_heading(setting.category.to_string())
        .global(setting.name == CONTROL_SOCKET)
        .help(short)
        .long_help(long);
    let arg = match setting.negation() {
        Some(negation) => arg.overrides_with(negation),
        None => arg,
    };
    let arg = match setting.kind.is_switch() {
        true => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        false => arg,
    };
    match setting.short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

/// The flag that turns a switch off which is on by default.
fn negative_flag(setting: &'static Setting) -> Option<Arg> {
    let name = setting.negation()?;
    let arg = Arg::new(name.clone()).long(name).action(ArgAction::SetTrue).overrides_with(setting.name);
    Some(arg.hide(true).help_heading(setting.category.to_string()))
}

/// The facts of `--help`: allowed values, variable, whether a reload applies it.
fn facts(setting: &Setting, settings: &Settings) -> String {
    let platform = setting.platform.map(|p| format!(", which overrides {}", p.variable)).unwrap_or_default();
    let negation = setting.negation().map(|name| format!(". Off: --{name}")).unwrap_or_default();
    let reload = if setting.reload { "" } else { "; a reload does not change it" };
    let allowed = setting.kind.allowed(settings);
    format!("Allowed: {allowed}{negation}. Variable: {}{platform}{reload}.", setting.variable())
}
