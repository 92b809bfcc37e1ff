//! Whether guests run on the processor itself or are emulated.
//!
//! The device of KVM exists on machines where no stock kernel boots with it, so it is tried: once for each boot of this
//! machine, since it takes seconds to see that it does not work.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use super::Plan;
use super::kit::Kit;
use super::scripts::Job;
use crate::invocation::now;

/// Who runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, 10 to 20 times slower.
    Emulation,
}

/// KVM if a guest comes up with it in a few seconds.
///
/// # Errors
/// What was found cannot be remembered.
pub(super) fn choose(kit: &Kit) -> Result<Accelerator, String> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Emulation);
    }
    let memory = memory(kit);
    let works = match fs::read_to_string(&memory) {
        Ok(text) => text == WORKS,
        Err(_) => {
            let works = try_kvm(kit);
            let text = if works { WORKS } else { FAILS };
            fs::write(&memory, text)
                .map_err(|error| format!("cannot write {}: {error}", memory.display()))?;
            works
        }
    };
    Ok(if works { Accelerator::Kvm } else { Accelerator::Emulation })
}

fn try_kvm(kit: &Kit) -> bool {
    let job = Job { command: vec!["true".to_owned()], folder: "/".to_owned(), environment: Vec::new() };
    let deadline = now() + TRIAL;
    let plan = Plan { guests: 1, memory_mib: 1024, shows_console: false, deadline, job };
    plan.run(kit, Accelerator::Kvm).is_ok()
}

/// Where the outcome is remembered for this boot of the machine.
fn memory(kit: &Kit) -> PathBuf {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    kit.cache.join(format!("kvm-{}", boot.trim()))
}

/// Longer than a guest takes that works.
const TRIAL: Duration = Duration::from_secs(6);
const WORKS: &str = "works\n";
const FAILS: &str = "fails\n";
