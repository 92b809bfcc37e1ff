//! Which process this is, so that no other is taken for it.
//!
//! A number alone says little: it is given out again. With the moment of its start, the boot and the name space of numbers it
//! names one process for ever. All of it comes from `/proc`.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use rustix::process::Pid;

/// One process, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: i32,
    /// Clock ticks from boot to its start.
    started: u64,
    boot: String,
    /// The name space in which the number means this process.
    pid_namespace: String,
}

impl ProcessIdentity {
    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        Ok(Self {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            started: start_time("self")?,
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            pid_namespace: fs::read_link("/proc/self/ns/pid")?.to_string_lossy().into_owned(),
        })
    }

    /// Whether numbers mean the same to it and to this process.
    pub(crate) fn shares_numbers_with(&self, own: &Self) -> bool {
        self.boot == own.boot && self.pid_namespace == own.pid_namespace
    }

    /// Whether the process that has its number now is this one. Only for one that shares numbers.
    pub(crate) fn has_its_number(&self) -> bool {
        start_time(&self.pid.to_string()).is_ok_and(|started| started == self.started)
    }

    /// Its number, for the kernel.
    pub(crate) fn number(&self) -> Option<Pid> {
        // Anything below names no process, or many.
        if self.pid > 0 { Pid::from_raw(self.pid) } else { None }
    }
}

/// The text in a node's lock file.
impl fmt::Display for ProcessIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, started, boot, pid_namespace } = self;
        writeln!(formatter, "{HEADING}\npid = {pid}\nstarted = {started}")?;
        writeln!(formatter, "boot = {boot}\npid namespace = {pid_namespace}")
    }
}

impl FromStr for ProcessIdentity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADING) || !text.ends_with('\n') {
            return Err(());
        }
        let mut value = |name: &str| {
            let line = lines.next()?.strip_prefix(name)?.strip_prefix(" = ")?;
            Some(line.to_owned())
        };
        let mut read = || {
            let pid = value("pid")?.parse().ok()?;
            let started = value("started")?.parse().ok()?;
            Some(Self { pid, started, boot: value("boot")?, pid_namespace: value("pid namespace")? })
        };
        read().ok_or(())
    }
}

/// The 22nd field of `stat`. The second one is the program's name in brackets, which may have anything in it.
fn start_time(process: &str) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{process}/stat"))?;
    parse_start_time(&stat)
        .ok_or_else(|| io::Error::other("the kernel's words about a process are not understood"))
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let behind_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = str::from_utf8(&stat[behind_name..]).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

const HEADING: &str = "epicserver node 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_comes_back_and_half_of_it_is_none() {
        let own = ProcessIdentity::own().unwrap();
        let text = own.to_string();
        assert_eq!(text.parse(), Ok(own.clone()));
        assert!(own.has_its_number() && own.shares_numbers_with(&own));
        assert_eq!(own.number(), Some(rustix::process::getpid()));
        for length in 0..text.len() {
            assert_eq!(text[..length].parse::<ProcessIdentity>(), Err(()), "{length}");
        }
        let other = ProcessIdentity { started: own.started + 1, ..own.clone() };
        assert!(!other.has_its_number());
        let elsewhere = ProcessIdentity { boot: "another".into(), ..own.clone() };
        assert!(!elsewhere.shares_numbers_with(&own));
        assert_eq!(
            ProcessIdentity { pid: -5, ..own }.number(),
            None,
            "a negative number means many processes"
        );
    }

    #[test]
    fn a_name_with_brackets_and_spaces_confuses_nobody() {
        let stat = b"42 (a) b) 1 2 (\xFF) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time(b"42 (a) S 1 2"), None);
        assert_eq!(parse_start_time(b""), None);
    }
}
