//! Numbers that nobody can guess, from the operating system.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes.
///
/// # Panics
/// If the kernel has no source of randomness: then nothing that is founded here would be safe.
pub(crate) fn bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut filled = 0;
    while filled < LENGTH {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => panic!("the kernel gives random bytes since Linux 3.17: {error}"),
        }
    }
    bytes
}
