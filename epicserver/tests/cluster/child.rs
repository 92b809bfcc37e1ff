//! The processes that serve objects: this very test program, started again.

use std::process::ExitCode;

use epicserver::launch;
use epicserver::settings::{Flags, Settings};

use crate::game::{Barrel, Player};
use crate::{other_game, stuck, veterans};

/// Serves until it is told to stop, where the environment says so; else it is no test of anything.
#[test]
fn node_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let given: std::collections::BTreeMap<&str, &str> =
        arguments.lines().filter_map(|line| line.split_once('=')).collect();
    let flag = |name| given.get(name).map(|value| (*value).to_owned());
    let flags = Flags {
        cores: flag("cores"),
        wait: Some("park".to_owned()),
        log: Some("warn".to_owned()),
        threads: flag("threads"),
        transport: flag("transport"),
        data_dir: flag("data_dir"),
        seed: flag("seed"),
        secret_file: flag("secret_file"),
        // Here nodes are started to be killed.
        short_life: flag("short_life").or(Some("0".to_owned())),
        ..Flags::default()
    };
    let settings = Settings::load(&flags, std::iter::empty()).expect("the test's own settings");
    let serving = |node: &epicserver::Node| println!("{SERVING}{:016x}", node.id().id);
    let code = match given.get("binary").copied() {
        None => launch::serve::<(Player, Barrel)>(&settings, serving),
        Some("other") => launch::serve::<(other_game::Player, other_game::Barrel)>(&settings, serving),
        Some("old") => launch::serve::<(veterans::old::Veteran,)>(&settings, serving),
        Some("new") => launch::serve::<(veterans::new::Veteran,)>(&settings, serving),
        Some("stuck") => launch::serve::<(stuck::Stuck,)>(&settings, serving),
        Some(_) => launch::serve::<()>(&settings, serving),
    };
    // As such a process ends for others.
    if code != ExitCode::SUCCESS {
        std::process::exit(1);
    }
}

/// The variable with the settings, a line each.
pub(crate) const ARGUMENTS: &str = "EPICSERVER_TEST_NODE";
/// What a process says when it serves, before the number of its node.
pub(crate) const SERVING: &str = "serving as node ";
