//! The processors that the two processes of a measurement run on: each has its own half, so that neither disturbs the other.

use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of two processes, in the numbers of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Halves {
    /// Those of the process that calls.
    pub(crate) caller: Vec<usize>,
    /// Those of the process that is called.
    pub(crate) callee: Vec<usize>,
}

impl Halves {
    /// Halves of what this thread may run on. Where that is one processor, both get it.
    ///
    /// # Errors
    /// What the kernel says; not expected on Linux.
    pub(crate) fn of_this_thread() -> std::io::Result<Self> {
        let mask = sched_getaffinity(None)?;
        Ok(Self::of((0..CpuSet::MAX_CPU).filter(|processor| mask.is_set(*processor)).collect()))
    }

    fn of(all: Vec<usize>) -> Self {
        let (caller, callee) = all.split_at(all.len() / 2);
        let caller = if caller.is_empty() { callee } else { caller };
        Self { caller: caller.to_vec(), callee: callee.to_vec() }
    }
}

/// Keeps this thread, and every thread that it starts from now on, on these processors.
///
/// # Errors
/// One of them is none that this process may use.
pub(crate) fn stay_on(processors: &[usize]) -> std::io::Result<()> {
    let mut mask = CpuSet::new();
    for &processor in processors.iter().filter(|processor| **processor < CpuSet::MAX_CPU) {
        mask.set(processor);
    }
    Ok(sched_setaffinity(None, &mask)?)
}

/// Whether the processors are those of an emulator, as far as they say.
pub(crate) fn are_emulated() -> bool {
    static ARE_EMULATED: OnceLock<bool> = OnceLock::new();
    *ARE_EMULATED.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        text.lines().any(|line| line.starts_with("model name") && line.contains("TCG"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(all: &[usize], caller: &[usize], callee: &[usize]) {
        assert_eq!(Halves::of(all.to_vec()), Halves { caller: caller.to_vec(), callee: callee.to_vec() });
    }

    #[test]
    fn no_half_is_empty() {
        check(&[3], &[3], &[3]);
        check(&[0, 1], &[0], &[1]);
        check(&[0, 2, 4], &[0], &[2, 4]);
        check(&[0, 1, 2, 3], &[0, 1], &[2, 3]);
    }

    #[test]
    fn a_thread_stays_where_it_was_told_to() {
        let all = Halves::of_this_thread().expect("the kernel knows the mask");
        let one = [all.callee[0]];
        let thread = std::thread::scope(|scope| {
            let moved = scope.spawn(|| stay_on(&one).and_then(|()| Halves::of_this_thread()));
            moved.join().expect("no panic")
        });
        assert_eq!(thread.expect("a processor of the own mask").callee, one);
    }
}
