//! What RDMA devices count of packets that found no receive: credits rule them out, so no run may have any.

use std::fs;
use std::path::Path;

use crate::suite::Failure;

/// Packets that found no receive, at all devices of this machine since these are there.
pub(crate) fn receivers_not_ready() -> u64 {
    counted_below(Path::new("/sys/class/infiniband"))
}

/// An error if packets found no receive since these were counted.
pub(crate) fn all_found_receives_since(before: u64) -> Result<(), Failure> {
    match receivers_not_ready().saturating_sub(before) {
        0 => Ok(()),
        missed => Err(format!("{missed} packets found no receive, by the counters of the device").into()),
    }
}

fn counted_below(devices: &Path) -> u64 {
    let ports = entries(devices).flat_map(|device| entries(&device.join("ports")));
    let counters = ports.flat_map(|port| entries(&port.join("hw_counters")));
    let counts = counters.filter(|counter| counts_them(counter)).map(|counter| {
        let text = fs::read_to_string(counter).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    });
    counts.sum()
}

/// As the devices of several makers call it.
fn counts_them(counter: &Path) -> bool {
    let name = counter.file_name().unwrap_or_default().to_string_lossy();
    name.contains("rnr") || name == "out_of_buffer"
}

fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_such_counters_count() {
        let folder = std::env::temp_dir().join(format!("epicserver-bench-counters-{}", std::process::id()));
        let counters = folder.join("rxe0/ports/1/hw_counters");
        fs::create_dir_all(&counters).expect("a folder");
        for (name, text) in [("send_rnr_err", "2\n"), ("rcvd_rnr_err", "3\n"), ("sent_pkts", "70\n")] {
            fs::write(counters.join(name), text).expect("a file");
        }
        assert_eq!(counted_below(&folder), 5);
        fs::remove_dir_all(&folder).expect("it was there");
        assert_eq!(counted_below(&folder), 0);
    }
}
