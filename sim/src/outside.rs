//! What code that is simulated reads of the world outside: the machine's clock, and random numbers of the system.
//!
//! Rust reads both by functions of the C library, and a function of the program itself comes before one of a shared library. The two
//! here do what those do, and note who called them while this thread [`watch`]es. That finds `Instant::now`, `SystemTime::now` and what
//! asks the system for random numbers, in the user's code and below it. It does not find what comes another way: the counter of the
//! processor, a file, a static, the order of a hash map whose seed was drawn before. Those show in two runs of one seed that differ.

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_uint, c_void};

thread_local! {
    static WATCHES: Cell<bool> = const { Cell::new(false) };
    static PLACES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Has this thread's reads noted while `run` runs.
pub(crate) fn watch<R>(run: impl FnOnce() -> R) -> R {
    let before = WATCHES.replace(true);
    let _end = End(before);
    run()
}

/// What was read since somebody last asked, and where, at most [`PLACES_MAX`].
pub(crate) fn take_places() -> Vec<String> {
    PLACES.take()
}

/// A watch ends by return or by panic.
struct End(bool);

impl Drop for End {
    fn drop(&mut self) {
        WATCHES.set(self.0);
    }
}

/// What the C library's function of this name does, and noted.
///
/// # Safety
/// As there: `time` can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    note("the machine's clock");
    // SAFETY: see above; the kernel checks the pointer itself.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int }
}

/// What the C library's function of this name does, and noted.
///
/// # Safety
/// As there: `len` bytes can be written at `bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(bytes: *mut c_void, len: usize, flags: c_uint) -> isize {
    note("random numbers of the system");
    // SAFETY: see above; the kernel checks the pointer itself.
    unsafe { libc::syscall(libc::SYS_getrandom, bytes, len, flags) as isize }
}

/// Notes who reads something, if this thread watches. Called wherever the program reads a clock: cheap when nobody does.
fn note(what: &str) {
    // A thread that ends may read a clock after its places are gone.
    if WATCHES.try_with(Cell::get) != Ok(true) {
        return;
    }
    // What looks for the place may itself read something.
    let _end = End(WATCHES.replace(false));
    let trace = Backtrace::force_capture().to_string();
    if let Some(place) = place_in(&trace) {
        let line = format!("{what} in {place}");
        PLACES.with_borrow_mut(|places| {
            if places.len() < PLACES_MAX && !places.contains(&line) {
                places.push(line);
            }
        });
    }
}

/// The function and the line of the user's in the text of a backtrace: the first behind the functions above that is neither the standard library's nor of a crate
/// that the user takes from elsewhere. None where a log asks for the time of its lines.
fn place_in(trace: &str) -> Option<String> {
    let mut function = "";
    let mut is_behind = false;
    for line in trace.lines() {
        let line = line.trim();
        let Some(place) = line.strip_prefix("at ") else {
            function = line.split_once(": ").map_or(line, |(_, name)| name);
            if LOGS.iter().any(|log| function.contains(log)) {
                return None;
            }
            continue;
        };
        if OURS.iter().any(|name| function.ends_with(name)) {
            is_behind = true;
        } else if is_behind && !ELSEWHERE.iter().any(|part| place.contains(part)) {
            return Some(format!("{function} at {place}"));
        }
    }
    None
}

/// The functions of this module that the program calls.
const OURS: [&str; 2] = ["clock_gettime", "getrandom"];
/// Parts of the paths of code that is not the user's.
const ELSEWHERE: [&str; 4] = ["/rustc/", "/library/std/", "/.cargo/registry/", "/.cargo/git/"];
/// Crates that say when something was logged, which changes nothing.
const LOGS: [&str; 3] = ["tracing_subscriber::", "tracing_log::", "env_logger::"];
/// Places that are noted.
const PLACES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;

    #[inline(never)]
    #[expect(clippy::disallowed_methods, reason = "it is what is to be found")]
    fn looks_at_the_clock() -> Duration {
        std::hint::black_box(Instant::now()).elapsed()
    }

    #[test]
    fn who_reads_the_clock_is_named_and_only_while_somebody_watches() {
        looks_at_the_clock();
        assert_eq!(take_places(), Vec::<String>::new());
        watch(|| {
            looks_at_the_clock();
            looks_at_the_clock();
        });
        looks_at_the_clock();
        let places = take_places();
        assert!(!places.is_empty() && places.len() <= 2, "{places:?}");
        for place in &places {
            assert!(
                place.contains("the machine's clock in ") && place.contains("looks_at_the_clock"),
                "{place}"
            );
            assert!(place.contains("outside.rs:"), "{place}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is what must go on working")]
    fn the_clock_goes_on_as_it_is() {
        let before = SystemTime::now();
        let after = watch(SystemTime::now);
        let passed = after.duration_since(before).expect("it does not go back");
        assert!(passed < Duration::from_secs(60), "{passed:?}");
    }

    #[test]
    fn what_a_user_takes_from_elsewhere_is_named_by_who_asked_for_it() {
        let trace = "   0: epicserver_sim::outside::note\n             at ./src/outside.rs:70:17\n   \
                     1: clock_gettime\n             at ./src/outside.rs:40:5\n   \
                     2: std::time::Instant::now\n             at /rustc/abc/library/std/src/time.rs:260:9\n   \
                     3: chrono::now\n             at /u/.cargo/registry/src/x/chrono-0.4/src/lib.rs:5:5\n   \
                     4: bank::Account::deposit::{{closure}}\n             at ./src/bank.rs:12:20\n   \
                     5: bank::main\n             at ./src/bank.rs:99:1\n";
        assert_eq!(
            place_in(trace).as_deref(),
            Some("bank::Account::deposit::{{closure}} at ./src/bank.rs:12:20")
        );
        let logged = trace.replace("chrono::now", "tracing_subscriber::fmt::time::now");
        assert_eq!(place_in(&logged), None);
        assert_eq!(place_in("no backtrace"), None);
    }
}
