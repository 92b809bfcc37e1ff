//! The threads that read what guests say. Each ends with its pipe.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stream::Stream;

/// Something that a reader noticed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// It is up, and its script waits for the word to begin.
    Ready,
    /// The command ended with this status.
    Status(u8),
    /// One of the two outputs ended.
    OutputEnded,
    /// We cannot write where an output goes to.
    OutputBroken(String),
    /// The process of the guest is gone.
    Gone,
}

/// What happened, and to whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) number: u8,
    pub(super) attempt: u8,
    pub(super) happening: Happening,
}

/// Tells of what happens to one guest.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    pub(super) number: u8,
    /// Which start of that guest, so that the end of one that was given up is not taken for the end of the next.
    pub(super) attempt: u8,
    pub(super) sender: SyncSender<Notice>,
}

impl Teller {
    fn tell(&self, happening: Happening) {
        // Nobody listens any more when the guests are being ended.
        let _ = self.sender.send(Notice { number: self.number, attempt: self.attempt, happening });
    }
}

/// The last lines of a console, shared with the thread that reads it.
#[derive(Clone, Debug)]
pub(super) struct Console {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// What opens a line where it is shown, if it is.
    shown_with: Option<String>,
}

impl Console {
    pub(super) fn new(shown_with: Option<String>) -> Self {
        Self { lines: Arc::default(), shown_with }
    }

    /// The last lines, in order.
    pub(super) fn last_lines(&self) -> String {
        let lines = self.lines();
        lines.iter().map(|line| format!("    {line}\n")).collect()
    }

    fn add(&self, line: &str) {
        if let Some(prefix) = &self.shown_with {
            eprintln!("{prefix}{line}");
        }
        let mut lines = self.lines();
        if lines.len() == CONSOLE_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the last lines of the console. It is the output of QEMU itself too, so that its end is that of the process.
pub(super) fn read_console(pipe: PipeReader, console: Console, teller: Teller) {
    aside(move || {
        for_each_line(pipe, |line| console.add(line));
        teller.tell(Happening::Gone);
    });
}

/// Reads what the job's script says.
pub(super) fn read_control(socket: UnixStream, teller: Teller) {
    aside(move || {
        for_each_line(socket, |line| {
            if line == "ready" {
                teller.tell(Happening::Ready);
            } else if let Some(status) = line.strip_prefix("status ").and_then(|status| status.parse().ok()) {
                teller.tell(Happening::Status(status));
            }
        });
    });
}

/// Passes an output of the command on to `target`, up to its end.
pub(super) fn pass_on(
    mut pipe: PipeReader,
    target: impl Write + Send + 'static,
    prefix: String,
    teller: Teller,
) {
    aside(move || {
        let mut stream = Stream::new(target, prefix);
        let mut buffer = vec![0; READ_LEN_MAX];
        loop {
            // A pipe that cannot be read has no more to say.
            let len = pipe.read(&mut buffer).unwrap_or(0);
            match stream.handle_bytes(&buffer[..len]) {
                Ok(false) if len > 0 => {}
                Ok(_) => return teller.tell(Happening::OutputEnded),
                Err(error) => return teller.tell(Happening::OutputBroken(error.to_string())),
            }
        }
    });
}

/// Calls `handle` with each line. Lines that are longer than one should be are cut.
fn for_each_line(pipe: impl Read, mut handle: impl FnMut(&str)) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while (&mut reader).take(LINE_LEN_MAX).read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        handle(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task runner is a driver: a pipe has no read with a time limit"
)]
fn aside(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

const CONSOLE_LINES_MAX: usize = 20;
const LINE_LEN_MAX: u64 = 4096;
const READ_LEN_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn teller(sender: SyncSender<Notice>) -> Teller {
        Teller { number: 2, attempt: 1, sender }
    }

    fn notice(happening: Happening) -> Result<Notice, std::sync::mpsc::RecvError> {
        Ok(Notice { number: 2, attempt: 1, happening })
    }

    #[test]
    fn an_output_that_is_cut_off_ends_too() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let (sender, happenings) = sync_channel(4);
        pass_on(reader, std::io::sink(), String::new(), teller(sender));
        writer.write_all(b"half of").expect("somebody reads");
        drop(writer);
        assert_eq!(happenings.recv(), notice(Happening::OutputEnded));
    }

    #[test]
    fn the_console_keeps_its_last_lines_and_tells_of_its_end() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let (sender, happenings) = sync_channel(4);
        let console = Console::new(None);
        read_console(reader, console.clone(), teller(sender));
        for line in 0..=CONSOLE_LINES_MAX {
            writeln!(writer, "line {line}\r").expect("somebody reads");
        }
        drop(writer);
        assert_eq!(happenings.recv(), notice(Happening::Gone));
        let lines = console.last_lines();
        assert!(lines.starts_with("    line 1\n") && lines.ends_with("    line 20\n"), "{lines}");
    }

    #[test]
    fn the_script_says_when_it_is_ready_and_the_status() {
        let (reader, mut writer) = UnixStream::pair().expect("a pair of sockets");
        let (sender, happenings) = sync_channel(4);
        read_control(reader, teller(sender));
        writer.write_all(b"ready\nstatus x\nstatus 300\nstatus 3\n").expect("somebody reads");
        assert_eq!(happenings.recv(), notice(Happening::Ready));
        assert_eq!(happenings.recv(), notice(Happening::Status(3)));
    }
}
