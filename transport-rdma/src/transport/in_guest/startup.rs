//! What is said at the start where something is missing, each on a machine that lacks it.

use super::faults::Removed;
use super::*;

fn said(options: RdmaOptions) -> String {
    RdmaTransport::bind(options).err().expect("it cannot start").to_string()
}

#[test]
fn what_the_settings_name_and_is_not_there_is_said() {
    let text = said(RdmaOptions { device: Some("mlx5_7".into()), ..options() });
    assert!(text.starts_with("there is no RDMA device `mlx5_7`; there are: "), "{text}");
    let text = said(RdmaOptions { gid_index: Some(200), ..options() });
    assert!(text.contains("no address (GID) with index 200"), "{text}");
    let text = said(RdmaOptions { port: Some(2), ..options() });
    assert!(text.contains("has no port 2"), "{text}");
    let text = said(RdmaOptions { listen: "192.0.2.1:1".parse().expect("an address"), ..options() });
    assert!(text.starts_with("cannot listen on 192.0.2.1:1"), "{text}");
}

#[test]
fn a_machine_without_a_device_or_with_one_that_has_no_network_is_told_so() {
    {
        let mut device = Removed::begin();
        device.end();
        let text = said(options());
        assert!(text.contains("has no RDMA device") && text.contains("rdma link add"), "{text}");
    }
    shell("ip link set veth0 down");
    let text = said(options());
    shell("ip link set veth0 up");
    assert!(text.contains("no port of RDMA device rxe0 is active") && text.contains("ip link set"), "{text}");
}

#[test]
fn a_device_without_an_address_is_told_so() {
    shell("ip address flush dev veth0");
    let text = said(options());
    shell("ip address add 10.77.0.1/24 dev veth0");
    assert!(text.contains("rxe0 has no address") && text.contains("ip address add"), "{text}");
}

#[test]
fn a_process_that_may_not_lock_memory_is_told_its_limit() {
    // Root may lock any amount, unless it gives up that right.
    let text =
        said_by_a_child("setpriv --bounding-set=-ipc_lock sh -c 'ulimit -l 64; exec \"$@\"' sh \"$@\"");
    assert!(text.contains("cannot lock") && text.contains("the limit is 65536 bytes"), "{text}");
    assert!(text.contains("ulimit -l unlimited"), "{text}");
}

#[test]
fn a_system_without_the_library_is_told_its_package() {
    let folder = std::env::temp_dir().join(format!("epicserver-test-verbs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    // What is found first counts, and this is no library.
    std::fs::write(folder.join("libibverbs.so.1"), "").expect("a file");
    let text = said_by_a_child(&format!("LD_LIBRARY_PATH={} exec \"$@\"", folder.display()));
    std::fs::remove_dir_all(&folder).expect("it was there");
    assert!(text.contains("libibverbs is missing") && text.contains("apt-get install libibverbs1"), "{text}");
}

/// What a process says that is started by this script, which is given its command.
fn said_by_a_child(script: &str) -> String {
    let program = std::env::current_exe().expect("this program");
    let child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program)
        .args(["transport::in_guest::startup::child_process", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("sh runs");
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    let said = output.lines().find_map(|line| Some(line.split_once(SAID)?.1));
    said.unwrap_or_else(|| panic!("{output} {}", String::from_utf8_lossy(&child.stderr))).to_owned()
}

/// Says why it cannot start, where the environment asks for it; else it is no test of anything.
#[test]
fn child_process() {
    if std::env::var_os(CHILD).is_some() {
        println!("{SAID}{}", said(options()));
    }
}

const CHILD: &str = "EPICSERVER_TEST_VERBS_START";
const SAID: &str = "it says: ";
