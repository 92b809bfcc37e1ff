//! Pins threads to processors of the process's own mask. Best effort: a caller logs an error and runs unpinned.

use std::io;

/// The processors this process may run on, ascending: the mask of its main thread, so that a caller that is pinned itself sees
/// them all. A quota of processor time (cgroups) does not show here; `std::thread::available_parallelism` knows it.
///
/// # Errors
/// What the kernel says; not expected on Linux.
pub fn available_processors() -> io::Result<Vec<usize>> {
    let mut mask: Mask = [0; MASK_WORDS];
    // SAFETY: `getpid` has no precondition. `mask` is as long as the size given and aligned like `cpu_set_t`, which is an
    // array of these words; the kernel writes into it only.
    let result =
        unsafe { libc::sched_getaffinity(libc::getpid(), size_of::<Mask>(), (&raw mut mask).cast()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..PROCESSORS_MAX).filter(|processor| mask[processor / 64] >> (processor % 64) & 1 == 1).collect())
}

/// Lets the calling thread run on `processor` only, a number from [`available_processors`].
///
/// # Errors
/// If there is no such processor, or the process may not use it: `InvalidInput`. The thread then runs where it did.
pub fn pin_current_thread(processor: usize) -> io::Result<()> {
    let mut mask: Mask = [0; MASK_WORDS];
    let word = mask.get_mut(processor / 64).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (processor % 64);
    // SAFETY: `mask` is as long as the size given and aligned like `cpu_set_t`; the kernel only reads it. 0 is the calling
    // thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), (&raw const mask).cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One bit per processor. libc's own set ends at 1024.
type Mask = [u64; MASK_WORDS];

const MASK_WORDS: usize = PROCESSORS_MAX / 64;
/// The most processors a Linux kernel can be built for.
const PROCESSORS_MAX: usize = 8192;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn thread_is_pinned_where_asked_and_the_process_still_sees_all() {
        let processors = available_processors().expect("the kernel knows the mask");
        assert!(!processors.is_empty());
        assert!(processors.is_sorted());
        thread::scope(|scope| {
            for &processor in &processors {
                let processors = &processors;
                scope.spawn(move || {
                    pin_current_thread(processor).expect("a processor of the own mask");
                    // SAFETY: no precondition.
                    let running_on = unsafe { libc::sched_getcpu() };
                    assert_eq!(usize::try_from(running_on), Ok(processor));
                    assert_eq!(available_processors().expect("as before"), *processors);
                });
            }
        });
    }

    #[test]
    fn processor_that_is_not_there_is_an_error() {
        for processor in [PROCESSORS_MAX - 1, PROCESSORS_MAX, usize::MAX] {
            let error = pin_current_thread(processor).expect_err("no machine has it");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
