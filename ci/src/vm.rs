//! `cargo ci vm`: runs a command in a guest whose kernel has what this machine's kernel lacks, TIPC and soft-RoCE.
//!
//! The guest has the host's own root, read-only below an overlay in its memory, so that every program and the build folder
//! are simply there, and nothing that it does stays. What is needed for it is fetched once ([`kit`]).
//!
//! ```text
//! vm: kit -> archive (busybox, modules, scripts) -> qemu -> guest 1..n, joined by the wire
//!                                                            | each: a socket for control; pipes for console, output and errors
//! ```
//! Start reading at [`guest`] for how one guest is run and ends; [`scripts`] is what happens inside.

mod accelerator;
mod archive;
mod guest;
mod image;
mod kit;
mod modules;
mod qemu;
mod readers;
mod scripts;
mod stream;
mod wire;

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;

use crate::invocation::now;
use accelerator::Accelerator;
use guest::Guest;
use kit::Kit;
use readers::Notice;
use scripts::Job;
use wire::Wire;

/// Run a command in a guest whose kernel has TIPC and soft-RoCE.
///
/// The guest sees the files of this machine; what it writes stays in its memory and is gone with it. The command runs as
/// root in the current folder with the current environment, has this output and error output, and no input; its exit status
/// is ours. It finds the modules tipc and rdma_rxe loaded, and the device rxe0 with the address 10.77.0.1.
///
/// With several guests each runs the command, with its number in VM_GUEST and their count in VM_GUESTS; each has 10.78.0.NUMBER
/// on eth0, where TIPC and rxe0 are too, and its lines begin with its number. None begins before all are up. The status is that of the
/// first that failed.
///
/// QEMU, kmod and iproute2 are installed if they are missing (which needs root and apt); a Debian kernel and busybox are downloaded once to
/// the cache folder of the user. Where KVM does not work the guest is emulated, and runs 10 to 20 times slower.
#[derive(Args)]
pub(crate) struct Options {
    /// How many guests, joined by one wire.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=GUESTS_MAX))]
    guests: u8,
    /// How long all of it may take, in seconds, before the guests are ended.
    #[arg(long, default_value_t = DEADLINE_S, value_name = "SECONDS")]
    deadline: u64,
    /// Memory of each guest in MiB; half of it may hold files that the guest writes.
    #[arg(long, default_value_t = MEMORY_MIB, value_name = "MIB", value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Show the console of the guests' kernels on the error output.
    #[arg(long)]
    console: bool,
    /// What is run.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the guests and returns the exit status of the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let kit = Kit::complete()?;
    let accelerator = accelerator::choose(&kit)?;
    if accelerator == Accelerator::Emulation {
        eprintln!("vm: KVM does not work here, so the guest is emulated and 10 to 20 times slower");
    }
    let plan = Plan {
        guests: options.guests,
        memory_mib: options.memory,
        shows_console: options.console,
        deadline: now() + Duration::from_secs(options.deadline),
        job: Job::of_this_process(&options.command)?,
    };
    let statuses = plan.run(&kit, accelerator)?;
    let status = statuses.into_iter().find(|&status| status != 0).unwrap_or(0);
    Ok(ExitCode::from(status))
}

/// Runs a command in one guest, as the options have it that nobody gave.
pub(crate) fn run_one(command: &[String]) -> Result<ExitCode, String> {
    let (deadline, memory) = (DEADLINE_S, MEMORY_MIB);
    run(&Options { guests: 1, deadline, memory, console: false, command: command.to_vec() })
}

/// What is to be run, on how many guests, and until when.
#[derive(Debug)]
struct Plan {
    guests: u8,
    memory_mib: u32,
    shows_console: bool,
    deadline: Instant,
    job: Job,
}

impl Plan {
    /// Runs the guests to their end; the exit status of the command in each. None begins it before all are up.
    ///
    /// # Errors
    /// A guest cannot be started, does not come up, ends without a status, or is not done at the deadline. None is left running.
    fn run(&self, kit: &Kit, accelerator: Accelerator) -> Result<Vec<u8>, String> {
        let (sender, notices) = sync_channel(NOTICES_MAX);
        let mut guests = self.boot(kit, accelerator, sender, &notices)?;
        guests.iter_mut().try_for_each(Guest::begin)?;
        while guests.iter().any(|guest| guest.status().is_none()) {
            if let Some(notice) = self.next(&notices, self.deadline, &guests)? {
                handle(&mut guests, notice)?;
            }
        }
        Ok(guests.iter().filter_map(Guest::status).collect())
    }

    /// Starts the guests, and one whose boot hangs once more: where they are emulated one of some forty was seen to.
    fn boot(
        &self,
        kit: &Kit,
        accelerator: Accelerator,
        sender: SyncSender<Notice>,
        notices: &Receiver<Notice>,
    ) -> Result<Vec<Guest>, String> {
        let wire = if self.guests > 1 { Some(Wire::new(self.guests)?) } else { None };
        let start = |number, attempt| {
            let port = wire.as_ref().map(|wire| wire.port(number));
            Guest::start(self, kit, accelerator, (number, attempt), port, sender.clone())
        };
        let mut attempt = 1;
        let mut guests =
            (1..=self.guests).map(|number| start(number, attempt)).collect::<Result<Vec<_>, _>>()?;
        while !self.come_up(notices, &mut guests)? {
            let late = guests.iter().filter(|guest| !guest.is_ready());
            let tails: String = late.map(Guest::last_words).collect();
            let failure = format!("not up in {} s{tails}", BOOT_TIME_MAX.as_secs());
            if attempt == BOOT_ATTEMPTS {
                return Err(failure);
            }
            eprintln!("vm: {failure}vm: trying once more");
            attempt += 1;
            for (guest, number) in guests.iter_mut().zip(1..).filter(|(guest, _)| !guest.is_ready()) {
                guest.end();
                *guest = start(number, attempt)?;
            }
        }
        Ok(guests)
    }

    /// Waits as long as a boot may take; whether all are up then.
    fn come_up(&self, notices: &Receiver<Notice>, guests: &mut [Guest]) -> Result<bool, String> {
        let end = now() + BOOT_TIME_MAX;
        while guests.iter().any(|guest| !guest.is_ready()) {
            match self.next(notices, end, guests)? {
                Some(notice) => handle(guests, notice)?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What is noticed next, up to `end`.
    ///
    /// # Errors
    /// The deadline has come, or there is nobody left.
    fn next(
        &self,
        notices: &Receiver<Notice>,
        end: Instant,
        guests: &[Guest],
    ) -> Result<Option<Notice>, String> {
        match notices.recv_timeout(end.min(self.deadline).saturating_duration_since(now())) {
            Ok(notice) => Ok(Some(notice)),
            Err(RecvTimeoutError::Timeout) if now() < self.deadline => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let tails: String =
                    guests.iter().filter(|guest| guest.status().is_none()).map(Guest::last_words).collect();
                Err(format!("not done at the deadline, and ended{tails}"))
            }
            Err(RecvTimeoutError::Disconnected) => Err("all guests are gone".to_owned()),
        }
    }
}

/// Tells the guest that it is about.
fn handle(guests: &mut [Guest], notice: Notice) -> Result<(), String> {
    guests[usize::from(notice.number) - 1].handle(notice)
}

const DEADLINE_S: u64 = 600;
const MEMORY_MIB: u32 = 3072;
/// More would share a processor with each other only.
const GUESTS_MAX: i64 = 8;
/// Some times what an emulated one takes where the machine is slow and several boot at once.
const BOOT_TIME_MAX: Duration = Duration::from_secs(90);
const BOOT_ATTEMPTS: u8 = 2;
/// What the guests' readers have to say and nobody has heard yet; they wait above that.
const NOTICES_MAX: usize = 64;
