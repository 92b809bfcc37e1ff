//! One guest: its process, and when it is done.
//!
//! QEMU writes into three pipes, read by the threads of [`readers`]: the console of the kernel and the command's two outputs. By a socket,
//! the control channel, the job's script says that the guest is up and waits for the word to begin. The guest is done when its script has said the status and both outputs have
//! ended. Its process dies with this value, and with this process too, however that ends; it leaves no files.

use std::fs::{self, File};
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::mpsc::SyncSender;

use super::Plan;
use super::accelerator::Accelerator;
use super::archive::Archive;
use super::kit::Kit;
use super::modules::Modules;
use super::qemu::Machine;
use super::readers::{self, Console, Happening, Notice, Teller};
use super::scripts::{self, Place};

/// A running guest; ended when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    number: u8,
    /// Which start of it this is, counted from 1.
    attempt: u8,
    process: Child,
    control: UnixStream,
    is_ready: bool,
    status: Option<u8>,
    outputs_ended: usize,
    is_gone: bool,
    /// Our ends, by which QEMU opens the pipes.
    writers: Vec<PipeWriter>,
    /// By which QEMU opens it.
    _first_root: File,
    console: Console,
}

impl Guest {
    /// Starts guest `number` for the `attempt`th time; what happens to it goes to `sender`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(
        plan: &Plan,
        kit: &Kit,
        accelerator: Accelerator,
        (number, attempt): (u8, u8),
        wire_port: Option<u16>,
        sender: SyncSender<Notice>,
    ) -> Result<Self, String> {
        let failed = |error: io::Error| format!("guest {number} cannot be started: {error}");
        let first_root = first_root(kit, plan, Place { number, guests: plan.guests })?;
        let first_root = unnamed_file(kit, &first_root).map_err(failed)?;
        let (console, console_writer) = io::pipe().map_err(failed)?;
        let (control, its_control) = UnixStream::pair().map_err(failed)?;
        let (output, output_writer) = io::pipe().map_err(failed)?;
        let (errors, errors_writer) = io::pipe().map_err(failed)?;
        let machine = Machine {
            accelerator,
            memory_mib: plan.memory_mib,
            kernel: &kit.kernel(),
            first_root: &path_of(&first_root),
            pipes: [
                ("console", OWN_OUTPUT),
                ("output", &path_of(&output_writer)),
                ("errors", &path_of(&errors_writer)),
            ],
            wire: wire_port.map(|port| (port, number)),
        };
        let process = spawn(&machine, its_control, console_writer).map_err(failed)?;
        let prefix = if plan.guests > 1 { format!("{number}| ") } else { String::new() };
        let teller = Teller { number, attempt, sender };
        let kept = Console::new(plan.shows_console.then(|| format!("{prefix}console: ")));
        readers::read_console(console, kept.clone(), teller.clone());
        readers::read_control(control.try_clone().map_err(failed)?, teller.clone());
        readers::pass_on(output, io::stdout(), prefix.clone(), teller.clone());
        readers::pass_on(errors, io::stderr(), prefix, teller);
        Ok(Self {
            number,
            attempt,
            process,
            control,
            is_ready: false,
            status: None,
            outputs_ended: 0,
            is_gone: false,
            writers: vec![output_writer, errors_writer],
            _first_root: first_root,
            console: kept,
        })
    }

    /// Takes notice of what happened to this guest.
    ///
    /// # Errors
    /// It ended otherwise than it should.
    pub(super) fn handle(&mut self, notice: Notice) -> Result<(), String> {
        if notice.attempt != self.attempt {
            return Ok(());
        }
        match notice.happening {
            Happening::Ready => self.is_ready = true,
            Happening::Status(status) => self.status = Some(status),
            Happening::OutputEnded => self.outputs_ended += 1,
            Happening::OutputBroken(error) => {
                return Err(format!("cannot write what the guest says: {error}"));
            }
            Happening::Gone => {
                self.is_gone = true;
                // Now the readers see the end of what is in the pipes.
                self.writers.clear();
            }
        }
        if self.status().is_some() {
            self.end();
        } else if self.is_gone && self.outputs_ended == OUTPUTS {
            return Err(format!("guest {} ended before its command did{}", self.number, self.last_words()));
        }
        Ok(())
    }

    /// Whether it is up.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Gives the word to begin.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        writeln!(self.control).map_err(|error| {
            format!("guest {} does not hear that it shall begin: {error}{}", self.number, self.last_words())
        })
    }

    /// The status of the command, once the guest is done.
    pub(super) fn status(&self) -> Option<u8> {
        self.status.filter(|_| self.outputs_ended == OUTPUTS)
    }

    /// What its console said last, to end an error with.
    pub(super) fn last_words(&self) -> String {
        let lines = self.console.last_lines();
        format!("; the console of guest {} said last:\n{lines}", self.number)
    }

    /// Ends it now: there is nothing in a guest that would have to be saved.
    pub(super) fn end(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts QEMU so that the kernel ends it when the thread that calls this is gone.
fn spawn(machine: &Machine<'_>, control: UnixStream, console: PipeWriter) -> io::Result<Child> {
    let errors = console.try_clone()?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(machine.arguments())
        .stdin(OwnedFd::from(control))
        .stdout(console)
        .stderr(errors)
        .spawn()
}

/// The archive that the kernel starts from.
fn first_root(kit: &Kit, plan: &Plan, place: Place) -> Result<Vec<u8>, String> {
    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| {
            format!("cannot read {}: {error}; remove the folder {}", path.display(), kit.cache.display())
        })
    };
    let modules = kit.modules();
    let dependencies = String::from_utf8_lossy(&read(&modules.join("modules.dep"))?).into_owned();
    let files = Modules::parse(&dependencies).files(&scripts::MODULES)?;
    let mut archive = Archive::default();
    scripts::FOLDERS.into_iter().for_each(|folder| archive.folder(folder));
    archive.file(scripts::BUSYBOX, &read(&kit.busybox())?);
    for (index, file) in files.iter().enumerate() {
        archive.file(&scripts::module_path(index), &read(&modules.join(file))?);
    }
    archive.file("/init", scripts::init(files.len()).as_bytes());
    let job = plan.job.script(place, &modules.to_string_lossy(), &kit.version);
    archive.file(scripts::JOB, job.as_bytes());
    Ok(archive.finish())
}

/// A file with that content that is gone when it is closed.
fn unnamed_file(kit: &Kit, content: &[u8]) -> io::Result<File> {
    let path = kit.cache.join(format!("first-root-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(content)?;
    Ok(file)
}

/// A path by which another process of this user opens what is open here.
fn path_of(open: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd())
}

/// As QEMU sees it.
const OWN_OUTPUT: &str = "/proc/self/fd/1";
/// Outputs of a command.
const OUTPUTS: usize = 2;
